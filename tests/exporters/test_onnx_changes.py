"""Finished ONNX files with another batch, opset, input or output, and files that are none."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from fairdeploy.errors import ExportError
from fairdeploy.inputs.image_folder import open_image_folder
from fairdeploy.records import OnnxChanges, Preprocessing
from fairdeploy_onnx import OnnxExporter
from tests.deployment.fakes import PROFILE
from tests.exporters.captured_networks import EXAMPLE, captured, captured_two_by_two
from tests.exporters.test_onnx_exporter import IMAGES, axes
from tests.onnx_files import write_nodes

PREPROCESSING = Preprocessing(3, 8, 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"})
    return path


def changed(source: Path, path: Path, **changes: object) -> Path:
    OnnxExporter().change(source, path, OnnxChanges(**changes))  # type: ignore[arg-type]
    return path


def test_a_fixed_batch_is_all_that_the_file_takes(fp32: Path, tmp_path: Path) -> None:
    path = changed(fp32, tmp_path / "m.onnx", batch=2)
    graph = onnx.load(path).graph
    assert axes(graph.input[0]) == [2, 3, 8, 8]
    assert axes(graph.output[0]) == [2, 5]
    runner = OnnxExporter().open(path, PROFILE)
    (expected,) = OnnxExporter().open(fp32, PROFILE).run((IMAGES[:2].numpy(),))
    np.testing.assert_allclose(runner.run((IMAGES[:2].numpy(),))[0], expected, atol=1e-5)
    with pytest.raises(
        ExportError, match=r"^input 'input' takes \[2, 3, 8, 8\], got \[3, 3, 8, 8\]$"
    ):
        runner.run((IMAGES[:3].numpy(),))
    with pytest.raises(ExportError, match=r"a batch of 4 does not fit: 'input' takes 2 at a time"):
        changed(path, tmp_path / "n.onnx", batch=4)


def test_another_opset_gives_the_same(fp32: Path, tmp_path: Path) -> None:
    before = onnx.load(fp32).opset_import[0].version
    path = changed(fp32, tmp_path / "m.onnx", opset=before + 1)
    model = onnx.load(path)
    assert model.opset_import[0].version == before + 1
    assert {item.key: item.value for item in model.metadata_props} == {"plan": "abc"}
    (expected,) = OnnxExporter().open(fp32, PROFILE).run((IMAGES.numpy(),))
    (got,) = OnnxExporter().open(path, PROFILE).run((IMAGES.numpy(),))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ExportError, match="opset 999 does not exist here; choose one from 13 to"):
        changed(fp32, tmp_path / "n.onnx", opset=999)


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"crop_pct": 0.875},
    {"crop_pct": 0.7, "interpolation": "bilinear", "channel_order": "bgr"},
    {"crop_pct": 1.2},
    {"crop_mode": "squash", "interpolation": "bilinear"},
    {"crop_mode": "squash", "crop_pct": 0.9},
    {"crop_mode": "border", "crop_pct": 0.9, "channel_order": "bgr"},
    {"interpolation": "nearest", "crop_mode": "squash"},
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())) or "usual")
@pytest.mark.parametrize("size", [(8, 8), (37, 23), (16, 31), (5, 6)])
def test_embedded_preprocessing_is_that_of_image_files(
    tmp_path: Path, size: tuple[int, int], way: dict[str, Any]
) -> None:
    """An identity network shows what comes in; a pixel value is 1/255 of the range."""
    preprocessing = replace(PREPROCESSING, **way)
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    pixels = np.asarray(
        Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    )
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    expected = open_image_folder(folder, preprocessing, None).train.fetch(np.array([0])).images
    path = identity_network(tmp_path / "i.onnx")
    embedded = changed(path, tmp_path / "m.onnx", preprocessing=preprocessing)
    graph = onnx.load(embedded).graph
    assert axes(graph.input[0]) == ["N", "height", "width", 3]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    (got,) = OnnxExporter().open(embedded, PROFILE).run((pixels[None],))
    std = np.array(PREPROCESSING.std).reshape(1, 3, 1, 1)
    levels = np.abs(got - expected.numpy()) * std * 255
    assert levels.max() <= (1.01 if size != (8, 8) or way else 0.001)
    assert levels.mean() < 0.3


def test_embedded_preprocessing_takes_sixteen_bits(tmp_path: Path) -> None:
    preprocessing = replace(PREPROCESSING, white=4095, crop_mode="squash")
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.linspace(0, 4095, 20 * 12).reshape(20, 12).astype(np.uint16)
    Image.fromarray(pixels).save(folder / "a.png")
    expected = open_image_folder(folder, preprocessing, None).train.fetch(np.array([0])).images
    embedded = changed(
        identity_network(tmp_path / "i.onnx"), tmp_path / "m.onnx", preprocessing=preprocessing
    )
    images = np.repeat(pixels[None, :, :, None], 3, axis=3)
    (got,) = OnnxExporter().open(embedded, PROFILE).run((images,))
    std = np.array(PREPROCESSING.std).reshape(1, 3, 1, 1)
    assert (np.abs(got - expected.numpy()) * std * 4095).max() <= 1.01


def test_an_interpolation_that_onnx_lacks_is_refused(tmp_path: Path) -> None:
    lanczos = replace(PREPROCESSING, interpolation="lanczos")
    with pytest.raises(ExportError, match="ONNX cannot resize with 'lanczos', only with bicubic"):
        changed(identity_network(tmp_path / "i.onnx"), tmp_path / "m.onnx", preprocessing=lanczos)


def identity_network(path: Path) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_probabilities_are_the_softmax_of_the_scores(fp32: Path, tmp_path: Path) -> None:
    path = changed(fp32, tmp_path / "m.onnx", probabilities=True)
    (scores,) = OnnxExporter().open(fp32, PROFILE).run((IMAGES.numpy(),))
    (shares,) = OnnxExporter().open(path, PROFILE).run((IMAGES.numpy(),))
    powers = np.exp(scores)
    np.testing.assert_allclose(shares, powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_preprocessing_of_another_size_or_for_two_inputs_is_refused(
    fp32: Path, tmp_path: Path
) -> None:
    other = Preprocessing(3, 9, 9, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(
        ExportError, match=r"takes \[3, 8, 8\], and preprocessing makes \[3, 9, 9\]"
    ):
        changed(fp32, tmp_path / "m.onnx", preprocessing=other)
    two = tmp_path / "two.onnx"
    OnnxExporter().export(
        captured_two_by_two(), (EXAMPLE[0], EXAMPLE[0]), two, dynamic_batch=True, metadata={}
    )
    with pytest.raises(
        ExportError, match=r"for one input .* only; this file takes input_0, input_"
    ):
        changed(two, tmp_path / "m.onnx", preprocessing=PREPROCESSING)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a" * 99])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_that_is_not_onnx_is_one_line(
    tmp_path: Path, content: bytes, precision: str
) -> None:
    (tmp_path / "text.onnx").write_bytes(content)
    calibration = ((IMAGES.numpy(),),)
    with pytest.raises(ExportError, match=r"'text.onnx' is not a valid ONNX file") as caught:
        OnnxExporter().convert(tmp_path / "text.onnx", tmp_path / "m", precision, calibration)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["text.onnx"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_full_disk_leaves_the_old_file_whole(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    real = onnx.save

    def full(model: Any, target: Any, **options: Any) -> None:
        if Path(str(target)).name == "m.onnx":
            Path(str(target)).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(model, target, **options)

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(ExportError, match=r"cannot write '.*m.onnx': No space left on device"):
        OnnxExporter().convert(fp32, path, precision, ((IMAGES.numpy(),),))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"old"


def test_the_first_node_that_parts_from_the_other_file_is_named(fp32: Path, tmp_path: Path) -> None:
    """The third convolution's weights are doubled: it is the first whose result differs."""
    model = onnx.load(fp32)
    third = [node for node in model.graph.node if node.op_type == "Conv"][2]
    weight = next(w for w in model.graph.initializer if w.name == third.input[1])
    weight.CopyFrom(
        onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name)
    )
    onnx.save(model, tmp_path / "m.onnx")
    exporter, inputs = OnnxExporter(), (IMAGES.numpy(),)
    found = exporter.first_divergence(fp32, tmp_path / "m.onnx", inputs, 1e-3)
    assert found is not None
    assert (found.node, found.operator) == (third.name, "Conv")
    assert found.source
    assert found.error > 0.1
    assert exporter.first_divergence(fp32, fp32, inputs, 1e-6) is None


def test_an_unknown_precision_lists_the_known_ones(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no precision 'int4' here; use one of fp32, fp16, int8"):
        OnnxExporter().convert(fp32, tmp_path / "m.onnx", "int4", None)
    write_nodes(tmp_path / "n.onnx", [helper.make_node("Relu", ["x"], ["y"])], [])
    OnnxExporter().convert(tmp_path / "n.onnx", tmp_path / "m.onnx", "fp32", None)
    assert onnx.load(tmp_path / "m.onnx").metadata_props[0].value == "fp32"
