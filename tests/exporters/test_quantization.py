"""INT8 files: QDQ with weights per channel, chosen on held-out images, float where it must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fairdeploy.errors import ExportError
from fairdeploy_onnx import OnnxExporter
from fairdeploy_onnx.int8_search import Candidate, Fidelity, Int8Search, fidelity_of
from fairdeploy_onnx.quantization import (
    EXTENTS,
    SCHEMES,
    foldable_copy,
    quantized,
    value_ranges,
)
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured
from tests.onnx_files import write_dense, write_nodes

INT8 = profile(precision="int8")


def batches(count: int = 8, seed: int = 5) -> tuple[tuple[np.ndarray], ...]:
    random = np.random.default_rng(seed)
    return tuple((random.standard_normal((4, 3, 8, 8)).astype(np.float32),) for _ in range(count))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"})
    return path


@pytest.fixture(scope="module", params=["int8", "int8-symmetric"])
def int8(request: pytest.FixtureRequest, fp32: Path) -> Path:
    path = fp32.with_name(f"model-{request.param}.onnx")
    artifact = OnnxExporter().convert(fp32, path, request.param, batches())
    assert artifact.precision == request.param
    return path


def told(path: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(path).metadata_props}


def test_an_int8_file_follows_the_float_one_on_other_images(fp32: Path, int8: Path) -> None:
    images = np.concatenate([batch for (batch,) in batches(8, seed=6)])
    (expected,) = OnnxExporter().open(fp32, profile()).run((images,))
    (got,) = OnnxExporter().open(int8, INT8).run((images,))
    fidelity = fidelity_of([expected], [got])
    # one bit fewer without a zero point
    assert 0 < fidelity.error < (0.3 if "symmetric" in int8.name else 0.15)
    assert fidelity.disagreement is not None
    assert fidelity.disagreement < 0.15


def test_weights_are_8_bit_with_one_scale_for_each_output_channel(int8: Path) -> None:
    model = onnx.load(int8)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    readers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    scales = {
        weights[node.input[0]].shape[0]: weights[node.input[1]].shape
        for node in readers
        if node.input[0] in weights and weights[node.input[0]].ndim == 4
    }
    assert scales
    assert all(shape == (channels,) for channels, shape in scales.items())
    assert all(
        weights[node.input[0]].dtype == np.int8
        for node in readers
        if node.input[0] in weights and weights[node.input[0]].ndim == 4
    )


def test_the_symmetric_file_has_no_zero_points_and_float_biases(int8: Path) -> None:
    model = onnx.load(int8)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    points = [
        weights[node.input[2]] for node in model.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2
    ]  # fmt: skip
    is_symmetric = all((point == 0).all() for point in points)
    assert is_symmetric == ("symmetric" in int8.name)
    has_wide_integers = any(array.dtype == np.int32 and array.ndim for array in weights.values())
    assert has_wide_integers != is_symmetric


def test_the_file_keeps_its_metadata_and_says_how_it_was_made(int8: Path) -> None:
    found = told(int8)
    assert found["plan"] == "abc"
    assert found["fairdeploy.precision"] == int8.stem.removeprefix("model-")
    assert found["fairdeploy.int8_ranges"] in ("minmax", "percentile", "entropy")
    assert found["fairdeploy.int8_weight_bits"] in ("7", "8")
    assert "onnx.infer" not in found
    assert isinstance(json.loads(found["fairdeploy.int8_kept_in_float"]), list)


def test_a_layer_that_int8_would_ruin_stays_in_float(tmp_path: Path) -> None:
    """One channel is 10,000 times as large as those that matter: 8 bits lose the small ones."""
    random = np.random.default_rng(0)
    first, second = np.eye(8), random.standard_normal((8, 8))
    first[7, 7], second[7] = 1e4, 0
    rest = [np.linalg.qr(random.standard_normal((8, 8)))[0] for _ in range(4)]
    weights = [
        numpy_helper.from_array(matrix.astype(np.float32), f"w{index}")
        for index, matrix in enumerate([first, second, *rest])
    ]
    names = ["x", *[f"h{index}" for index in range(5)], "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layer{i}")
        for i in range(6)
    ]
    path = write_nodes(tmp_path / "m.onnx", nodes, weights)
    calibration = tuple((random.standard_normal((32, 8)).astype(np.float32),) for _ in range(8))
    OnnxExporter().with_max_drop(0.05).convert(path, tmp_path / "q.onnx", "int8", calibration)
    kept = json.loads(told(tmp_path / "q.onnx")["fairdeploy.int8_kept_in_float"])
    assert set(kept) == {"layer0", "layer1"}
    images = random.standard_normal((200, 8)).astype(np.float32)
    (got,) = OnnxExporter().open(tmp_path / "q.onnx", INT8).run((images,))
    exact = images.astype(np.float64)
    for matrix in [first, second, *rest]:
        exact = exact @ matrix
    assert (got.argmax(1) == exact.argmax(1)).mean() > 0.9


def test_int8_without_images_is_refused_and_leaves_nothing(fp32: Path, tmp_path: Path) -> None:
    for nothing in (None, ()):
        with pytest.raises(ExportError, match=r"int8 needs images .*; give --data"):
            OnnxExporter().convert(fp32, tmp_path / "q.onnx", "int8", nothing)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_one_line(fp32: Path, tmp_path: Path) -> None:
    wrong = ((np.zeros((2, 3, 9, 9), dtype=np.float32),),)
    with pytest.raises(ExportError, match=r"^ONNX Runtime failed on a batch: ") as caught:
        OnnxExporter().convert(fp32, tmp_path / "q.onnx", "int8", wrong)
    assert "\n" not in str(caught.value)


def test_fidelity_by_hand() -> None:
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])
    got = np.array([[1.0, 0.0], [2.0, 1.0]])
    found = fidelity_of([expected], [got])
    assert found.disagreement == 0.5
    assert found.error == pytest.approx(2**0.5)  # sqrt((4/4) / (2/4))
    # column 0: sqrt(4/2), of a spread of 0.5, but two values tell little: of sqrt(1/2) of it
    assert found.column_error == pytest.approx(2**0.5 / 0.5)
    assert fidelity_of([expected[None]], [got[None]]).disagreement is None
    assert fidelity_of([expected], [got], has_classes=False).disagreement is None


def test_scores_are_within_by_their_order_and_values_by_their_columns() -> None:
    assert Fidelity(0.5, 9.0, 0.15).is_within(0.25)
    assert not Fidelity(0.5, 9.0, 0.15).is_within(0.2)
    assert not Fidelity(0.0, 0.0, 0.16).is_within(0.2)
    assert Fidelity(None, 0.1, 0.15).is_within(0.0)
    assert not Fidelity(None, 0.11, 0.15).is_within(1.0)
    assert not Fidelity(None, 0.1, 0.16).is_within(1.0)
    assert not Fidelity(None, 0.0, 0.0, is_broken=True).is_within(1.0)


def test_a_map_is_judged_by_its_error_and_keeps_its_shape(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    kernel = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])],
        "map",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(kernel, "w")],
    )
    opset = helper.make_opsetid("", 18)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    OnnxExporter().convert(path, tmp_path / "q.onnx", "int8", batches())
    ((images,),) = batches(1, seed=7)
    (expected,) = OnnxExporter().open(path, profile()).run((images,))
    (got,) = OnnxExporter().open(tmp_path / "q.onnx", INT8).run((images,))
    found = fidelity_of([expected], [got])
    assert found.disagreement is None
    assert 0 < found.error < 0.08


def test_results_of_products_stay_float_where_only_their_inputs_are_quantised(
    tmp_path: Path,
) -> None:
    path = write_dense(tmp_path / "dense.onnx", num_layers=2)
    model = foldable_copy(path)
    random = np.random.default_rng(0)
    feeds = [(random.standard_normal((4, 16)).astype(np.float32),) for _ in range(2)]
    ranges = value_ranges(model, "minmax", feeds)
    rounded = {}
    for extent in EXTENTS[1:]:
        made = quantized(model, ranges, SCHEMES["int8"], extent)
        rounded[extent.name] = {
            node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"
        }
    assert rounded["inputs of products"] == {"x", "h0"}
    assert rounded["products"] - rounded["inputs of products"]


@pytest.mark.parametrize(("needed", "tried"), [(1, [1]), (11, [1, 2, 4, 8, 16, 12, 10, 11])])
def test_no_more_layers_stay_in_float_than_needed(
    needed: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = object.__new__(Int8Search)
    asked: list[int] = []

    def keeping(start: Candidate, kept: Sequence[str]) -> Candidate:
        asked.append(len(kept))
        share = 0.0 if len(kept) >= needed else 0.5
        return replace(start, kept=tuple(kept), fidelity=Fidelity(share, 0.1))

    monkeypatch.setattr(search, "_by_error", lambda start: [str(index) for index in range(32)])
    monkeypatch.setattr(search, "_keeping", keeping)
    start = Candidate(None, "minmax", EXTENTS[0], (), False, Fidelity(0.5, 0.1))
    found = search._with_fewest_in_float(start, 0.01)
    assert asked == tried
    assert len(found[-1].kept) == needed
    assert found[-1].fidelity.is_within(0.01)
