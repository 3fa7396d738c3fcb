"""Engines are built, tagged, refused and run as TensorRT's API wants it, by a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature
from fairdeploy_tensorrt import (
    TensorrtExporter,
    TorchTensorrtExporter,
    libraries,
    runner,
    torch_exporter,
)
from fairdeploy_tensorrt import exporter as exporter_module
from tests.deployment.fakes import profile
from tests.exporters import fake_tensorrt
from tests.exporters.captured_networks import EXAMPLE, captured
from tests.onnx_files import write_dense

GPU = "Fake GPU (8.7)"
TARGET = profile(runtime="tensorrt", providers=("TensorRT",))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in in TensorRT's place, and a GPU whose memory is the CPU's."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setattr(fake_tensorrt, "has_gpu", True)
    monkeypatch.setattr(fake_tensorrt, "builds", [])
    monkeypatch.setattr(exporter_module, "gpu_name", lambda: GPU)
    monkeypatch.setattr(runner, "gpu_name", lambda: GPU)
    monkeypatch.setattr(runner, "require_gpu", lambda: None)
    monkeypatch.setattr(runner, "DEVICE", torch.device("cpu"))
    libraries._logger.cache_clear()
    yield fake_tensorrt
    libraries._logger.cache_clear()


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """ONNX: ``x`` of N times 16 numbers."""
    return _renamed(write_dense(tmp_path / "dense.onnx"), "input")


def _renamed(path: Path, name: str) -> Path:
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, path)
    return path


def test_an_engine_carries_what_it_was_built_by_and_for(
    trt: Any, dense: Path, tmp_path: Path
) -> None:
    artifact = TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)
    assert (artifact.path, artifact.format, artifact.precision) == (
        "model.engine", "tensorrt", "fp32",
    )  # fmt: skip
    tag = json.loads((tmp_path / "model.engine.json").read_text())
    assert (tag["library"], tag["version"], tag["gpu"]) == ("TensorRT", "10.3.0", GPU)
    assert tag["batches"] == [[1, 1, 1], [1, 16, 64]]
    assert tag["engine_sha256"] == artifact.sha256
    shapes = json.loads((tmp_path / "model.engine").read_bytes())
    assert shapes == [
        {"input": [[1, 16], [1, 16], [1, 16]]}, {"input": [[1, 16], [16, 16], [64, 16]]},
    ]  # fmt: skip
    assert trt.builds[0]["flags"] == 1 << 1


def test_a_file_with_one_batch_gets_no_profile(trt: Any, tmp_path: Path) -> None:
    file = _renamed(write_dense(tmp_path / "dense.onnx", sizes=(4, 16)), "input")
    TensorrtExporter().convert(file, tmp_path / "model.engine", "fp32", None)
    assert json.loads((tmp_path / "model.engine").read_bytes()) == []


def test_the_second_build_starts_with_the_kernel_times_of_the_first(
    trt: Any, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))
    for _ in range(3):
        TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)
    assert [build["cache"] for build in trt.builds] == [b"", b"+", b"++"]
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == "timing-tensorrt-10.3.0-Fake-GPU-8.7-.cache"


def test_kernel_times_of_another_gpu_are_not_used(
    trt: Any, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path))
    (tmp_path / "timing-tensorrt-10.3.0-Fake-GPU-8.7-.cache").write_bytes(b"other GPU")
    TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)
    assert trt.builds[0]["cache"] == b""


def test_an_engine_runs_one_image_and_many_each_with_its_own_kernels(
    trt: Any, dense: Path, tmp_path: Path
) -> None:
    TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)
    opened = TensorrtExporter().open(tmp_path / "model.engine", TARGET)
    assert opened.input_signature == (InputSignature("input", "float32", ("batch", 16)),)
    assert opened.providers == ("TensorRT",)
    for batch, used in ((1, 0), (5, 1), (1, 0), (64, 1)):
        images = np.random.default_rng(batch).normal(size=(batch, 16)).astype(np.float32)
        (result,) = opened.run((images,))
        np.testing.assert_array_equal(result, 2 * images)
        assert opened._context.profile == used
    with pytest.raises(ExportError, match=r"built for batches 1 to 1 and 1 to 64 and got .*\[65, "):
        opened.run((np.zeros((65, 16), dtype=np.float32),))
    with pytest.raises(ExportError, match=r"takes 1 inputs \(input\), got 2"):
        opened.run((np.zeros((1, 16)), np.zeros((1, 16))))
    opened.close()
    opened.close()
    with pytest.raises(ExportError, match="was closed"):
        opened.run((np.zeros((1, 16), dtype=np.float32),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "10.2.0"}, "was built by TensorRT 10.2.0 and here is TensorRT 10.3.0; build"),
        ({"library": "TensorRT for RTX"}, "was built by TensorRT for RTX 10.3.0 and here is"),
        ({"gpu": "Orin (8.7)"}, r"was built for Orin \(8.7\) and here is Fake GPU \(8.7\); build"),
        ({"precision": "fp16"}, "is fp16 and the target asks for fp32; choose another target"),
        ({"engine_sha256": "0"}, "is not the engine that 'model.engine.json' describes"),
        ({"colour": "red"}, "'model.engine.json' is damaged"),
    ],
)
def test_an_engine_for_something_else_is_refused_before_it_is_opened(
    trt: Any, dense: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)
    tag = tmp_path / "model.engine.json"
    tag.write_text(json.dumps(json.loads(tag.read_text()) | change))
    with pytest.raises(ExportError, match=message):
        TensorrtExporter().open(tmp_path / "model.engine", TARGET)


def test_a_file_that_is_no_engine_gives_the_library_s_first_error(trt: Any, tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"GIF89a")
    with pytest.raises(ExportError) as caught:
        TensorrtExporter().open(tmp_path / "x.engine", TARGET)
    assert str(caught.value) == (
        "'x.engine' cannot be opened by TensorRT 10.3.0: magicTag mismatch"
    )


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(
    trt: Any, dense: Path, tmp_path: Path
) -> None:
    file = dense.rename(tmp_path / "frobnicate.onnx")
    with pytest.raises(ExportError) as caught:
        TensorrtExporter().convert(file, tmp_path / "model.engine", "fp32", None)
    assert str(caught.value) == (
        "TensorRT cannot take operator 'Frobnicate' (node 'node_7') of 'frobnicate.onnx': "
        "no importer registered for op: Frobnicate"
    )
    assert not (tmp_path / "model.engine").exists()


def test_a_machine_without_a_gpu_is_told_what_building_needs(
    trt: Any, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "has_gpu", False)
    with pytest.raises(ExportError, match=r"CUDA initialization failure.*; it needs an NVIDIA GPU"):
        TensorrtExporter().convert(dense, tmp_path / "model.engine", "fp32", None)


def test_the_precision_comes_from_the_onnx_file(trt: Any, dense: Path, tmp_path: Path) -> None:
    exporter, path = TensorrtExporter(), tmp_path / "model.engine"
    assert [exporter.onnx_precision(one) for one in exporter.precisions] == [
        "fp32", "fp16", "int8-symmetric",
    ]  # fmt: skip
    with pytest.raises(ExportError, match=r"'dense.onnx' is fp32, and .*; give the fp16 ONNX file"):
        exporter.convert(dense, path, "fp16", None)
    half = onnx.load(dense)
    weights = onnx.numpy_helper.to_array(half.graph.initializer[0]).astype(np.float16)
    half.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w0"))
    onnx.save(half, tmp_path / "half.onnx")
    assert exporter.convert(tmp_path / "half.onnx", path, "fp16", None).precision == "fp16"
    with pytest.raises(ExportError, match="engines come in fp32, fp16, int8, not in 'bf16'"):
        exporter.convert(dense, path, "bf16", None)


def test_a_size_that_varies_besides_the_batch_is_refused(trt: Any, tmp_path: Path) -> None:
    file = write_dense(tmp_path / "dense.onnx", sizes=("N", "T", 16))
    with pytest.raises(ExportError, match="'x' varies in another size than the batch"):
        TensorrtExporter().convert(file, tmp_path / "model.engine", "fp32", None)


def test_what_is_missing_is_one_line_that_names_the_extra() -> None:
    for kind, extra in ((TensorrtExporter, "tensorrt"), (TorchTensorrtExporter, "torch-tensorrt")):
        reason = kind().is_available()
        if reason is None:
            pytest.skip(f"{extra} is installed")
        assert f"pip install 'fairdeploy[{extra}]'" in reason
        assert "\n" not in reason


def test_torch_tensorrt_builds_from_the_exported_program(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Dynamo:
        @staticmethod
        def convert_exported_program_to_serialized_trt_engine(
            program: torch.export.ExportedProgram, *, arg_inputs: list[Any]
        ) -> bytes:
            seen.update(program=program, inputs=arg_inputs)
            return b"[]"

    class Library:
        dynamo = Dynamo
        Input = staticmethod(lambda **options: options)

    monkeypatch.setitem(sys.modules, "torch_tensorrt", Library)
    monkeypatch.setattr(torch_exporter, "gpu_name", lambda: GPU)
    monkeypatch.setattr(torch_exporter, "require_gpu", lambda: None)
    path = tmp_path / "model.engine"
    artifact = TorchTensorrtExporter().export(
        captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"}
    )
    assert artifact.format == "torch-tensorrt"
    assert seen["inputs"] == [
        {"min_shape": (1, 3, 8, 8), "opt_shape": (16, 3, 8, 8), "max_shape": (64, 3, 8, 8),
         "dtype": torch.float32}
    ]  # fmt: skip
    assert isinstance(seen["program"], torch.export.ExportedProgram)
    tag = json.loads((tmp_path / "model.engine.json").read_text())
    assert (tag["gpu"], tag["metadata"], tag["batches"]) == (GPU, {"plan": "abc"}, [[1, 16, 64]])
