"""TensorRT for RTX really parses and builds what we export; it needs no GPU for that."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from fairdeploy.errors import ExportError
from fairdeploy_onnx import OnnxExporter
from fairdeploy_tensorrt import TensorrtRtxExporter
from fairdeploy_tensorrt.device import missing_for_running
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured, captured_two_by_two
from tests.onnx_files import write_dense
from tests.random_networks import BLOCKS

TARGET = profile(runtime="tensorrt-rtx", providers=("TensorRT-RTX",))


@pytest.fixture(scope="module")
def rtx() -> TensorrtRtxExporter:
    exporter = TensorrtRtxExporter()
    reason = exporter.is_available()
    if reason is not None:
        pytest.skip(reason)
    return exporter


SOME = ("plain", "residual", "grouped")


@pytest.mark.parametrize(
    "kind",
    [kind if kind in SOME else pytest.param(kind, marks=pytest.mark.slow) for kind in BLOCKS],
)
def test_every_kind_of_block_becomes_an_engine(
    rtx: TensorrtRtxExporter, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    artifact = rtx.export(captured(kind), EXAMPLE, path, dynamic_batch=True, metadata={"a": "b"})
    tag = json.loads((tmp_path / "model.engine.json").read_text())
    assert (tag["gpu"], tag["metadata"]["a"]) == ("", "b")
    assert artifact.size_bytes > path.stat().st_size > 1000


def test_a_network_with_two_inputs_and_outputs_becomes_an_engine(
    rtx: TensorrtRtxExporter, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    inputs = (EXAMPLE[0], EXAMPLE[0] + 1)
    rtx.export(captured_two_by_two(), inputs, path, dynamic_batch=True, metadata={})
    assert path.stat().st_size > 1000


def test_a_fixed_batch_becomes_an_engine_without_profiles(
    rtx: TensorrtRtxExporter, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    rtx.export(captured(), EXAMPLE, path, dynamic_batch=False, metadata={})
    assert json.loads((tmp_path / "model.engine.json").read_text())["batches"] == []


def test_an_operator_that_it_lacks_is_one_line_and_leaves_no_file(
    rtx: TensorrtRtxExporter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="node_7", domain="nobody.knows")],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1, 3])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"cannot take operator 'Frobnicate' .*node_7") as caught:
        rtx.convert(tmp_path / "odd.onnx", tmp_path / "model.engine", "fp32", None)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["odd.onnx"]
    assert capfd.readouterr() == ("", "")


def test_a_half_precision_file_becomes_a_half_precision_engine(
    rtx: TensorrtRtxExporter, tmp_path: Path
) -> None:
    module = captured()
    OnnxExporter().export(module, EXAMPLE, tmp_path / "m.onnx", dynamic_batch=True, metadata={})
    from onnxruntime.transformers import float16

    half = float16.convert_float_to_float16(onnx.load(tmp_path / "m.onnx"), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    artifact = rtx.convert(tmp_path / "half.onnx", tmp_path / "model.engine", "fp16", None)
    assert artifact.precision == "fp16"


def test_running_without_a_gpu_is_one_line_that_says_what_is_missing(
    rtx: TensorrtRtxExporter, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = tmp_path / "model.engine"
    rtx.convert(write_dense(tmp_path / "dense.onnx"), path, "fp32", None)
    with pytest.raises(ExportError, match="running engines needs") as caught:
        rtx.open(path, TARGET)
    assert str(caught.value) == missing_for_running()
    assert rtx.unusable_because(TARGET) == missing_for_running()
