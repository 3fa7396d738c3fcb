"""TensorRT for RTX really parses and builds what we export; it needs no GPU for that."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from fairdeploy.errors import ExportError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.architectures import build_network
from fairdeploy.records.architecture import parse_architecture
from fairdeploy_onnx import OnnxExporter
from fairdeploy_tensorrt import TensorrtRtxExporter
from fairdeploy_tensorrt.device import missing_for_running
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured, captured_two_by_two
from tests.exporters.test_quantization import batches
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


def test_int8_without_zero_points_becomes_an_engine_and_with_them_it_is_refused_in_one_line(
    rtx: TensorrtRtxExporter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fp32 = tmp_path / "m.onnx"
    OnnxExporter().export(captured("plain"), EXAMPLE, fp32, dynamic_batch=True, metadata={})
    for precision in ("int8", "int8-symmetric"):
        OnnxExporter().convert(fp32, tmp_path / f"{precision}.onnx", precision, batches(3))
    engine = tmp_path / "model.rtxengine"
    assert rtx.onnx_precision("int8") == "int8-symmetric"
    artifact = rtx.convert(tmp_path / "int8-symmetric.onnx", engine, "int8", None)
    assert artifact.precision == "int8"
    tag = json.loads((tmp_path / "model.rtxengine.json").read_text())
    assert tag["precision"] == "int8"
    assert tag["metadata"]["fairdeploy.precision"] == "int8-symmetric"
    refused = tmp_path / "refused.rtxengine"
    with pytest.raises(ExportError, match=r"'QuantizeLinear'.*[Zz]ero point") as caught:
        rtx.convert(tmp_path / "int8.onnx", refused, "int8", None)
    assert "\n" not in str(caught.value)
    assert not refused.exists()
    assert capfd.readouterr() == ("", "")


def test_a_file_of_another_precision_is_refused_and_the_right_one_named(
    rtx: TensorrtRtxExporter, tmp_path: Path
) -> None:
    dense = write_dense(tmp_path / "dense.onnx")
    with pytest.raises(
        ExportError, match=r"^'dense.onnx' is fp32, and TensorRT .*; give the int8 ONNX file$"
    ):
        rtx.convert(dense, tmp_path / "model.rtxengine", "int8", None)


NETWORKS = {
    "resnet56": "tests/benchmarks/cifar_resnet.py:resnet56",
    "resnet18": "timm:resnet18",
    "mobilenetv2_100": "timm:mobilenetv2_100",
    "convnext_atto": "timm:convnext_atto",
    "deit_tiny": "timm:deit_tiny_patch16_224,img_size=64",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_become_engines_in_every_precision(
    rtx: TensorrtRtxExporter, name: str, tmp_path: Path
) -> None:
    module = build_network(parse_architecture(NETWORKS[name]), num_classes=None, seed=0)
    images = torch.randn(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graph = build_unit_graph(module, (images[:2],))
    fp32 = tmp_path / "fp32.onnx"
    OnnxExporter().export(graph.module, (images[:2],), fp32, dynamic_batch=True, metadata={})
    calibration = tuple((batch.numpy(),) for batch in images.split(4))
    for precision in rtx.precisions:
        source = fp32
        if precision != "fp32":
            source = tmp_path / f"{precision}.onnx"
            OnnxExporter().convert(fp32, source, rtx.onnx_precision(precision), calibration)
        path = tmp_path / f"{precision}.rtxengine"
        assert rtx.convert(source, path, precision, None).precision == precision
        assert path.stat().st_size > 100_000
