"""Image files become inputs as timm and torchvision make them, and as ``run.py`` does."""

from __future__ import annotations

import json
import struct
import types
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.errors import UsageError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from fairdeploy.records import ImageFitting, Preprocessing
from fairdeploy.records.image_preparation import prepared, read_pixels
from fairdeploy.runs.folder.file_metadata import (
    PREPROCESSING_KEY,
    file_metadata,
    preprocessing_from,
)
from tests.inputs.tiny_inputs import TINY, write_class_folders

ensure_torchvision()

SIZES = ((8, 8), (37, 23), (16, 48), (5, 6), (33, 100))


def picture(height: int, width: int, channels: int = 3) -> Any:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 1.15])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
def test_files_are_prepared_as_timm_prepares_them(
    crop_mode: Any, crop_pct: float, interpolation: Any, shape: tuple[int, int, int]
) -> None:
    from timm.data.transforms_factory import create_transform

    mean, std = (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.25, 0.3)[: shape[0]]
    transform = create_transform(
        shape, is_training=False, mean=mean, std=std,
        crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation,
    )  # fmt: skip
    told = Preprocessing(*shape, mean, std, crop_pct, crop_mode, interpolation)
    for size in SIZES:
        pixels = picture(*size, shape[0])
        image = Image.fromarray(pixels if shape[0] == 3 else pixels[:, :, 0])
        assert np.array_equal(prepared(pixels, asdict(told)), transform(image).numpy())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "swin_v2_t"])
def test_networks_of_torchvision_get_what_their_weights_ask_for(name: str) -> None:
    import torchvision

    told = load_model(f"torchvision:{name}").preprocessing
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    pixels = picture(90, 301)
    expected = transform(Image.fromarray(pixels)).numpy()
    assert np.array_equal(prepared(pixels, asdict(told)), expected)


def test_torchvision_weights_are_known_by_the_name_of_their_file(tmp_path: Path) -> None:
    """The second version of ResNet-18's sibling is resized to 232, the first one to 256."""
    import torchvision

    network = torchvision.models.resnet50()
    names = torchvision.models.ResNet50_Weights
    found = {}
    for weights in (names.IMAGENET1K_V1, names.IMAGENET1K_V2):
        path = tmp_path / Path(weights.url).name
        torch.save(network.state_dict(), path)
        found[weights.name] = load_model(str(path), arch="torchvision:resnet50").preprocessing
    assert found["IMAGENET1K_V1"].crop_pct == 224 / 256
    assert found["IMAGENET1K_V2"].crop_pct == 224 / 232


def test_networks_of_timm_get_their_own_configuration() -> None:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    name = "convnextv2_atto.fcmae_ft_in1k"
    told = load_model(f"timm:{name}").preprocessing
    config = resolve_model_data_config(timm.create_model(name))
    transform = create_transform(**config, is_training=False)
    pixels = picture(301, 260)
    expected = transform(Image.fromarray(pixels)).numpy()
    assert np.array_equal(prepared(pixels, asdict(told)), expected)


def test_a_network_for_other_classes_and_another_size_sees_the_whole_image() -> None:
    """Nobody trains small images by the configuration of large ones."""
    small = load_model("timm:deit_tiny_patch16_224,img_size=32,depth=1", num_classes=10)
    assert small.preprocessing.crop_pct == 1.0
    fine_tuned = load_model("timm:deit_tiny_patch16_224,depth=1", num_classes=10)
    assert fine_tuned.preprocessing.crop_pct == 0.9


class Configured(nn.Sequential):
    pretrained_cfg: dict[str, Any]


def saved(folder: Path, **config: Any) -> str:
    """An own network with a configuration in timm's words, as an own factory makes it."""
    (folder / "own.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))\n"
        f"    net.pretrained_cfg = {config!r}\n"
        "    return net\n"
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    torch.save(network.state_dict(), folder / "net.pt")
    return str(folder / "net.pt")


def test_an_own_network_may_carry_a_configuration_and_options_win(tmp_path: Path) -> None:
    path, arch = (
        saved(
            tmp_path, input_size=(3, 8, 8), mean=(0.4,) * 3, std=(0.3,) * 3, crop_mode="squash",
            interpolation="bilinear",
        ),
        f"{tmp_path}/own.py:build",
    )  # fmt: skip
    told = load_model(path, arch=arch).preprocessing
    assert told == Preprocessing(
        3, 8, 8, (0.4,) * 3, (0.3,) * 3, crop_mode="squash", interpolation="bilinear"
    )
    fitting = ImageFitting(crop_mode="border", channel_order="bgr")
    changed = load_model(path, arch=arch, mean=(0.5,), fitting=fitting).preprocessing
    assert changed == replace(told, mean=(0.5,) * 3, crop_mode="border", channel_order="bgr")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_mode": "zoom"}, "crop_mode 'zoom', which is not known; mend it to one of center"),
        ({"mean": "grey"}, "pretrained_cfg says input_size .*, mean grey"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path, input_size=(3, 8, 8), **config)
    with pytest.raises(UsageError, match=message):
        load_model(path, arch=f"{tmp_path}/own.py:build")


def test_an_impossible_share_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    path = saved(tmp_path, input_size=(3, 8, 8))
    with pytest.raises(UsageError, match=r"--crop-pct 87\.5 is not a share .*mean 0\.875"):
        load_model(path, arch=f"{tmp_path}/own.py:build", fitting=ImageFitting(crop_pct=87.5))


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"crop_pct": 0.875, "interpolation": "bilinear"},
    {"crop_mode": "squash", "channel_order": "bgr"},
    {"crop_mode": "border", "interpolation": "lanczos"},
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())) or "usual")
def test_run_py_prepares_as_the_run_did(tmp_path: Path, way: dict[str, Any]) -> None:
    """Its text is run here; what it reads is the metadata of a file."""
    script = types.ModuleType("run")
    text = get_exporter("onnx").stand_alone_script()
    assert text is not None
    exec(compile(text, "run.py", "exec"), script.__dict__)  # the product's own text
    told = replace(TINY, **way)
    metadata = file_metadata({}, told, None, 0)
    assert preprocessing_from(metadata) == told
    read = json.loads(metadata[PREPROCESSING_KEY])
    for number, size in enumerate(SIZES):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.fromarray(picture(*size)).save(tmp_path / "flat" / f"{number}.png")
    images = load_data(str(tmp_path / "flat"), told).calibration.images.numpy()
    for number in range(len(SIZES)):
        path = tmp_path / "flat" / f"{number}.png"
        assert np.array_equal(script.prepared(script.read_pixels(path, read), read), images[number])


def test_metadata_of_older_results_means_what_it_meant() -> None:
    old = {"channels": 3, "height": 8, "width": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert preprocessing_from({PREPROCESSING_KEY: json.dumps(old)}) == TINY


def test_natural_order_numbers_2_before_10_and_text_order_after(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {str(number): 1 for number in range(12)})
    natural = load_data(str(tmp_path), TINY).class_names
    assert natural == tuple(str(number) for number in range(12))
    assert load_data(str(tmp_path), TINY, class_order="text").class_names == (
        "0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9",
    )  # fmt: skip


def test_natural_order_takes_any_names(tmp_path: Path) -> None:
    """Names that begin alike, with and without numbers, and that differ in case only by folder."""
    write_class_folders(tmp_path, {"a": 1, "a10": 1, "a9b": 1, "B": 1, "9": 1})
    assert load_data(str(tmp_path), TINY).class_names == ("9", "a", "a9b", "a10", "B")


def png16(pixels: Any) -> bytes:
    """A PNG of 16 bits a colour, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("white", [1023, 4095, 65535])
@pytest.mark.parametrize("is_grey", [True, False])
def test_deep_images_keep_their_range(tmp_path: Path, white: int, is_grey: bool) -> None:
    """Of 10, 12 and 16 bits: the highest value tells which."""
    random = np.random.default_rng(white)
    made = []
    for name in ("ant", "bee", "cow"):
        pixels = random.integers(0, white + 1, (8, 8, 3)).astype(np.uint16)
        pixels[0, 0] = white
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2) if is_grey else pixels
        (tmp_path / name).mkdir()
        if is_grey:
            Image.fromarray(pixels[:, :, 0]).save(tmp_path / name / "x.png")
        else:
            (tmp_path / name / "x.png").write_bytes(png16(pixels))
        made.append(pixels.transpose(2, 0, 1) / white)
    splits = load_data(str(tmp_path), replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3))
    found = splits.test.images if splits.test else torch.empty(0)
    images = torch.cat([splits.calibration.images, found])
    expected = np.sort(np.stack(made).ravel())
    assert np.allclose(np.sort(images.numpy().ravel()), expected, atol=1e-6)
    assert any(f"{white} is taken for white" in text for text in splits.warnings)
    assert splits.preprocessing is not None
    assert splits.preprocessing.white == white


def test_white_that_is_given_is_not_looked_for(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cow"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), 2000, np.uint16)).save(tmp_path / name / "x.png")
    splits = load_data(str(tmp_path), replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3, white=4000))
    assert torch.allclose(splits.calibration.images, torch.tensor(0.5))
    assert not any("white" in text for text in splits.warnings)


def test_arrays_of_sixteen_bits_and_class_names_in_the_file(tmp_path: Path) -> None:
    images = np.full((6, 8, 8), 2047, np.uint16) - np.arange(6, dtype=np.uint16)[:, None, None]
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(6) % 2, class_names=["ant", "bee"])
    splits = load_data(
        str(tmp_path / "d.npz"), replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3), num_calibration=4
    )
    assert splits.class_names == ("ant", "bee")
    assert torch.allclose(splits.calibration.images, torch.tensor(2045 / 4095), atol=1e-3)


def test_colours_become_what_the_network_takes(tmp_path: Path) -> None:
    """Transparency is dropped, palettes and inks are converted, as timm and torchvision do."""
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    modes = {"RGB": "png", "RGBA": "png", "P": "png", "CMYK": "tif"}
    for mode, ending in modes.items():
        path = tmp_path / f"{mode}.{ending}"
        (colour.quantize(4) if mode == "P" else colour.convert(mode)).save(path)
        pixels = read_pixels(path, asdict(TINY))
        assert pixels.shape == (8, 8, 3)
        assert np.abs(pixels[0, 0].astype(int) - (200, 100, 50)).max() <= 1
        grey = read_pixels(path, asdict(TINY) | {"channels": 1})
        assert abs(int(grey[0, 0, 0]) - 124) <= 1
