"""fp16 files follow the fp32 ones, and what float16 cannot hold stays in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.errors import ExportError
from fairdeploy_onnx import OnnxExporter, model_files
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured
from tests.exporters.test_onnx_exporter import IMAGES
from tests.onnx_files import write_dense, write_nodes

FP16 = profile(precision="fp16")
BATCHES = tuple((IMAGES[start : start + 2].numpy(),) for start in (0, 2))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    module = captured("residual", "attention")
    OnnxExporter().export(module, EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"})
    return path


@pytest.fixture(scope="module")
def fp16(fp32: Path) -> Path:
    path = fp32.with_name("model-fp16.onnx")
    artifact = OnnxExporter().convert(fp32, path, "fp16", BATCHES)
    assert (artifact.path, artifact.format, artifact.precision) == (path.name, "onnx", "fp16")
    return path


def test_an_fp16_file_gives_the_network_s_outputs_to_three_digits(fp16: Path) -> None:
    module = captured("residual", "attention")
    runner = OnnxExporter().open(fp16, FP16)
    results = check_parity(runner, module, fp16.name, IMAGES, batches=(1, 3), limit=1e-2)
    require_parity(results)
    assert all(result.max_relative_error > 1e-6 for result in results)


def test_weights_are_halves_and_inputs_and_outputs_stay_float32(fp16: Path) -> None:
    model = onnx.load(fp16)
    values = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    weights = [w for w in model.graph.initializer if len(w.dims) == 4]
    assert {weight.data_type for weight in weights} == {TensorProto.FLOAT16}


def test_softmax_stays_in_float32(fp16: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(fp16))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    softmax = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert softmax
    assert {types[node.output[0]] for node in softmax} == {TensorProto.FLOAT}


def test_the_file_keeps_its_metadata_and_says_its_precision(fp16: Path) -> None:
    told = {item.key: item.value for item in onnx.load(fp16).metadata_props}
    assert told == {
        "plan": "abc",
        "fairdeploy.precision": "fp16",
        "fairdeploy.fp16_kept_in_float32": "[]",
    }


def test_values_beyond_65504_stay_in_float32_and_come_out_right(tmp_path: Path) -> None:
    """x * 1e5 * 1e-5 is x; through float16 it would be infinite in between."""
    constants = {"large": 1e5, "small": 1e-5}
    weights = [
        numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        for name, value in constants.items()
    ]
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["middle"], name="up"),
        helper.make_node("Mul", ["middle", "small"], ["y"], name="down"),
    ]
    path = write_nodes(tmp_path / "m.onnx", nodes, weights)
    images = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    OnnxExporter().convert(path, tmp_path / "h.onnx", "fp16", ((images,),))
    (got,) = OnnxExporter().open(tmp_path / "h.onnx", FP16).run((images,))
    np.testing.assert_allclose(got, images, rtol=2e-3)
    told = {item.key: item.value for item in onnx.load(tmp_path / "h.onnx").metadata_props}
    assert told["fairdeploy.fp16_kept_in_float32"] == '["down", "up"]'


def test_a_result_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"], name="log")]
    path = write_nodes(tmp_path / "m.onnx", nodes, [])
    images = np.full((2, 8), -1, dtype=np.float32)
    with pytest.raises(ExportError, match=r"in fp16 the output 'y' is not a finite number for"):
        OnnxExporter().convert(path, tmp_path / "h.onnx", "fp16", ((images,),))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_weights_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above 2 GiB; the other file's name begins like the first one's."""
    path = write_dense(tmp_path / "m.onnx", width=64)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(model_files, "MAX_PROTOBUF_BYTES", 100)
    artifact = OnnxExporter().convert(path, tmp_path / "out" / "h.onnx", "fp16", None)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["h.onnx", "h.onnx.data"]
    assert artifact.size_bytes == sum(file.stat().st_size for file in files)
    images = np.ones((2, 16), dtype=np.float32)
    (expected,) = OnnxExporter().open(path, profile()).run((images,))
    (got,) = OnnxExporter().open(files[0], FP16).run((images,))
    np.testing.assert_allclose(got, expected, rtol=2e-3)
