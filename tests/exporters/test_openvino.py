"""IR files are what torch computes, in the precision that was asked for or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature, TargetProfile
from fairdeploy_onnx import OnnxExporter
from fairdeploy_openvino import OpenvinoExporter, OpenvinoRunner, library
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured, captured_two_by_two
from tests.onnx_files import write_dense
from tests.random_networks import BLOCKS

openvino = pytest.importorskip("openvino", reason="needs fairdeploy[openvino]")

TARGET = profile(runtime="openvino", providers=("CPU",), name="box")
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a small network."""
    path = tmp_path_factory.mktemp("openvino") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"})
    return path


@pytest.fixture(scope="module")
def ir(network: Path) -> Path:
    OpenvinoExporter().convert(network, network.with_suffix(".xml"), "fp32", None)
    return network.with_suffix(".xml")


def calibration() -> Iterator[tuple[np.ndarray, ...]]:
    """Three batches of two images."""
    for batch in IMAGES.split(2):
        yield (batch.numpy(),)


def error_of(path: Path, target: TargetProfile) -> float:
    runner = OpenvinoRunner(path, target)
    results = check_parity(runner, captured(), path.name, IMAGES, limit=1.0)
    runner.close()
    return max(result.max_relative_error for result in results)


SOME = ("plain", "grouped", "attention")


@pytest.mark.parametrize(
    "kind",
    [kind if kind in SOME else pytest.param(kind, marks=pytest.mark.slow) for kind in BLOCKS],
)
def test_every_kind_of_block_computes_what_torch_does(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    OpenvinoExporter().export(captured(kind), EXAMPLE, path, dynamic_batch=True, metadata={})
    runner = OpenvinoRunner(path, TARGET)
    require_parity(check_parity(runner, captured(kind), path.name, IMAGES, limit=1e-4))


def test_two_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    path, inputs = tmp_path / "model.xml", (EXAMPLE[0], EXAMPLE[0] + 1)
    OpenvinoExporter().export(captured_two_by_two(), inputs, path, dynamic_batch=True, metadata={})
    runner = OpenvinoRunner(path, TARGET)
    require_parity(
        check_parity(runner, captured_two_by_two(), path.name, (IMAGES, IMAGES + 1), limit=1e-4)
    )


def test_a_fixed_batch_is_kept_and_another_one_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    OpenvinoExporter().export(captured(), EXAMPLE, path, dynamic_batch=False, metadata={})
    runner = OpenvinoRunner(path, TARGET)
    assert runner.input_signature == (InputSignature("input", "float32", (2, 3, 8, 8)),)
    assert runner.run((IMAGES[:2].numpy(),))[0].shape == (2, 5)
    with pytest.raises(ExportError, match="OpenVINO failed: ") as caught:
        runner.run((IMAGES[:3].numpy(),))
    assert "\n" not in str(caught.value)


def test_it_tells_what_the_file_takes_and_what_runs_it(ir: Path) -> None:
    runner = OpenvinoRunner(ir, profile(runtime="openvino", providers=("CPU",), threads=2))
    assert runner.input_signature == (InputSignature("input", "float32", ("batch", 3, 8, 8)),)
    assert runner.versions == {"openvino": openvino.__version__}
    assert (runner.providers, runner.threads) == (("CPU",), 2)
    assert runner.compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_an_onnx_file_is_run_as_it_is(network: Path) -> None:
    assert error_of(network, TARGET) < 1e-5


def test_the_file_carries_precision_and_metadata(ir: Path) -> None:
    model = openvino.Core().read_model(str(ir))
    assert model.get_rt_info(["fairdeploy", "precision"]).astype(str) == "fp32"
    assert model.get_rt_info(["fairdeploy", "plan"]).astype(str) == "abc"


def test_fp16_halves_the_weights_and_stays_close(network: Path, ir: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.xml"
    artifact = OpenvinoExporter().convert(network, path, "fp16", None)
    assert artifact.precision == "fp16"
    ratio = path.with_suffix(".bin").stat().st_size / ir.with_suffix(".bin").stat().st_size
    assert 0.45 < ratio < 0.65
    error = error_of(path, profile(runtime="openvino", providers=("CPU",), precision="fp16"))
    assert 1e-6 < error < 1e-2


def test_int8_is_quantised_on_the_calibration_images(network: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs fairdeploy[openvino]")
    path = tmp_path / "int8.xml"
    artifact = OpenvinoExporter().convert(network, path, "int8", list(calibration()))
    assert artifact.precision == "int8"
    model = openvino.Core().read_model(str(path))
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("FakeQuantize") > 3
    error = error_of(path, profile(runtime="openvino", providers=("CPU",), precision="int8"))
    assert 1e-4 < error < 0.3


def test_int8_without_images_says_what_to_give(network: Path, tmp_path: Path) -> None:
    empty: list[tuple[np.ndarray, ...]] = []
    for nothing in (None, empty):
        with pytest.raises(ExportError, match=r"int8 needs calibration images .*; give --data"):
            OpenvinoExporter().convert(network, tmp_path / "int8.xml", "int8", nothing)
    assert list(tmp_path.iterdir()) == []


def test_int8_comes_from_the_quantised_onnx_file_where_nncf_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = OpenvinoExporter()
    monkeypatch.setattr("fairdeploy_openvino.exporter.has_nncf", lambda: True)
    assert [exporter.onnx_precision(one) for one in exporter.precisions] == ["fp32"] * 4
    monkeypatch.setattr("fairdeploy_openvino.exporter.has_nncf", lambda: False)
    assert exporter.onnx_precision("int8") == "int8"


def test_a_quantised_onnx_file_is_taken_as_it_is(network: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = calibration()

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch[0]}

    quantised, path = tmp_path / "qdq.onnx", tmp_path / "model.xml"
    quantize_static(str(network), str(quantised), Reader(), quant_format=QuantFormat.QDQ)
    OpenvinoExporter().convert(quantised, path, "int8", None)
    assert 1e-4 < error_of(path, profile(runtime="openvino", providers=("CPU",))) < 0.3


def test_fp32_means_fp32_even_where_the_cpu_prefers_bf16(ir: Path) -> None:
    compiled = OpenvinoRunner(ir, TARGET).compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert error_of(ir, TARGET) < 1e-5


def test_bf16_is_bf16_or_an_error(ir: Path) -> None:
    target = profile(runtime="openvino", providers=("CPU",), precision="bf16", name="box")
    problem = OpenvinoExporter().unusable_because(target)
    if library.computes(openvino.Core(), "CPU", "bf16"):
        assert problem is None
        assert 1e-4 < error_of(ir, target) < 1e-1
        return
    assert problem == "this CPU does not compute in bf16"
    with pytest.raises(ExportError, match=r"target 'box' asks for bf16, .*this CPU") as caught:
        OpenvinoRunner(ir, target)
    assert "\n" not in str(caught.value)


def test_a_silent_change_of_precision_is_refused(ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = openvino.Core

    class Core:
        """Compiles in fp32 whatever it is told, as plug-ins do that lack a precision."""

        def __init__(self) -> None:
            self.core = real()
            self.available_devices = self.core.available_devices

        def __getattr__(self, name: str) -> Any:
            return getattr(self.core, name)

        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "BF16"]

        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            return self.core.compile_model(
                model, device, {**options, "INFERENCE_PRECISION_HINT": "f32"}
            )

    monkeypatch.setattr(openvino, "Core", Core)
    target = profile(runtime="openvino", providers=("CPU",), precision="bf16", name="box")
    with pytest.raises(ExportError, match="'box' asks for bf16, and OpenVINO would compute in f32"):
        OpenvinoRunner(ir, target)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(ir: Path) -> None:
    target = profile(runtime="openvino", providers=("NPU9",), name="phone")
    with pytest.raises(
        ExportError, match=r"'model.xml' on NPU9, which target 'phone' asks for; it"
    ):
        OpenvinoRunner(ir, target)
    found = OpenvinoExporter().unusable_because(target)
    assert found is not None
    assert found.startswith("OpenVINO has no device NPU9 here; it has CPU")


def test_the_batch_of_the_profile_has_a_network_of_its_own(ir: Path) -> None:
    runner = OpenvinoRunner(ir, profile(runtime="openvino", providers=("CPU",), batch=2))
    assert list(runner.compiled.inputs[0].shape) == [2, 3, 8, 8]
    (two,) = runner.run((IMAGES[:2].numpy(),))
    assert runner._any_batch is None
    (six,) = runner.run((IMAGES.numpy(),))
    np.testing.assert_allclose(six[:2], two, rtol=1e-4, atol=1e-6)


def test_results_stay_when_the_next_batch_is_run(ir: Path) -> None:
    runner = OpenvinoRunner(ir, TARGET)
    (first,) = runner.run((IMAGES[:1].numpy(),))
    before = first.copy()
    runner.run((IMAGES[1:2].numpy(),))
    np.testing.assert_array_equal(first, before)


def test_wrong_inputs_and_a_closed_file_are_one_line(ir: Path) -> None:
    runner = OpenvinoRunner(ir, TARGET)
    with pytest.raises(ExportError, match=r"takes 1 inputs \(input\), got 2"):
        runner.run((IMAGES.numpy(),) * 2)
    with pytest.raises(ExportError, match="OpenVINO failed: ") as caught:
        runner.run((np.zeros((1, 4, 8, 8), dtype=np.float32),))
    assert "\n" not in str(caught.value)
    runner.close()
    with pytest.raises(ExportError, match="was closed"):
        runner.run((IMAGES.numpy(),))


def test_an_operator_that_openvino_lacks_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="nobody.knows")],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1, 3])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    with pytest.raises(
        ExportError, match=r"cannot read 'odd.onnx': No .*nobody.knows.Frobnicate"
    ) as caught:
        OpenvinoExporter().convert(tmp_path / "odd.onnx", tmp_path / "model.xml", "fp32", None)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["odd.onnx"]


def test_weights_that_are_missing_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    OpenvinoExporter().convert(write_dense(tmp_path / "dense.onnx"), path, "fp32", None)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ExportError, match=r"'model.xml' cannot be opened by OpenVINO: ") as caught:
        OpenvinoRunner(path, TARGET)
    assert "\n" not in str(caught.value)


def test_nothing_is_reported_to_the_makers_of_openvino() -> None:
    code = (
        "import sys\n"
        "from fairdeploy_openvino.library import import_openvino, import_nncf, has_nncf\n"
        "import_openvino()\n"
        "import_nncf() if has_nncf() else None\n"
        "print(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split()[-1] == "False"


def test_operators_are_timed_by_the_torch_node_that_they_came_from(ir: Path) -> None:
    times = OpenvinoExporter().operator_times(ir, (IMAGES[:3].numpy(),), TARGET, num_runs=3)
    by_node = {time.node: time for time in times}
    convolutions = {n.name for n in captured().graph.nodes if "conv2d" in str(n.target)}
    assert convolutions
    assert convolutions <= set(by_node)
    assert by_node["linear"].output_shape == (3, 5)
    assert by_node["conv2d"].output_shape == (3, 4, 8, 8)
    assert all(time.median_ms > 0 for time in times)
    reordered = {time.op_type for time in times if time.node == ""}
    assert reordered <= {"Reorder", "Transpose", "Input"}


def test_no_run_at_all_is_refused(ir: Path) -> None:
    with pytest.raises(ExportError, match="operator times need at least 1 run, got 0"):
        OpenvinoExporter().operator_times(ir, (IMAGES.numpy(),), TARGET, num_runs=0)


@pytest.mark.parametrize("name", ["picture.xml", "picture.onnx"])
@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<html>"])
def test_a_file_that_is_no_network_is_one_line_and_prints_nothing(
    name: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=f"^'{name}' cannot be opened by OpenVINO: it is neither"):
        OpenvinoRunner(tmp_path / name, TARGET)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no file '.*gone.xml'; give an IR or ONNX file"):
        OpenvinoRunner(tmp_path / "gone.xml", TARGET)
