"""Images beside masks of the same names, cut alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairdeploy.errors import DataError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.records import Preprocessing

TAKES = Preprocessing(3, 8, 8, (0.0,) * 3, (1.0,) * 3, interpolation="nearest")


def write(folder: Path, *, splits: tuple[str, ...] = ("",), size: tuple[int, int] = (8, 8)) -> None:
    """Images whose red is 20 times the class of the pixel."""
    random = np.random.default_rng(0)
    for split in splits:
        for number in range(12):
            mask = random.integers(0, 5, size).astype(np.uint8)
            image = np.stack([mask * 20, *random.integers(0, 255, (2, *size))], 2)
            for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
                path = folder / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def test_masks_are_the_labels_and_keep_to_their_images(tmp_path: Path) -> None:
    write(tmp_path)
    data = load_data(str(tmp_path), TAKES, num_calibration=6)
    assert data.test is not None
    assert len(data.calibration) + len(data.test) == 12
    for images in (data.calibration, data.test):
        assert images.labels is not None
        red = (images.images[:, 0] * 255 / 20).round().int()
        assert torch.equal(images.labels.int(), red)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(8, 12), (24, 16), (5, 5)])
def test_masks_are_cut_like_their_images(
    tmp_path: Path, crop_mode: str, size: tuple[int, int]
) -> None:
    write(tmp_path, size=size)
    takes = Preprocessing(
        3,
        8,
        8,
        (0.0,) * 3,
        (1.0,) * 3,
        interpolation="nearest",
        crop_mode=crop_mode,  # type: ignore[arg-type]
    )
    data = load_data(str(tmp_path), takes, num_calibration=8)
    assert data.calibration.labels is not None
    red = (data.calibration.images[:, 0] * 255 / 20).round().int()
    inside = data.calibration.labels >= 0
    assert torch.equal(data.calibration.labels[inside].int(), red[inside])
    assert bool(inside.all()) == (crop_mode != "border" or size[0] == size[1])


def test_splits_are_those_of_the_images(tmp_path: Path) -> None:
    write(tmp_path, splits=("train", "val", "test"))
    data = load_data(str(tmp_path), TAKES, num_calibration=12)
    assert data.test is not None
    assert (len(data.calibration), len(data.test)) == (12, 12)


def test_palettes_and_16_bits_are_read_as_numbers(tmp_path: Path) -> None:
    write(tmp_path)
    first, second = tmp_path / "masks/0.png", tmp_path / "masks/1.png"
    numbers = np.asarray(Image.open(first))
    palette = Image.fromarray(numbers, "P")
    palette.putpalette([255, 0, 0] * 256)
    palette.save(first)
    Image.fromarray(np.asarray(Image.open(second)).astype(np.uint16)).save(second)
    data = load_data(str(tmp_path), TAKES, num_calibration=12)
    assert data.calibration.labels is not None
    red = (data.calibration.images[:, 0] * 255 / 20).round().int()
    assert torch.equal(data.calibration.labels.int(), red)


def test_masks_that_do_not_fit_are_one_line_with_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "masks/3.png"
    kept = path.read_bytes()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"masks/3.png' is not a mask; give an image of one chan"):
        load_data(str(tmp_path), TAKES, num_calibration=12)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"masks/3.png' has 4x4 pixels, and its image 8x8"):
        load_data(str(tmp_path), TAKES, num_calibration=12)
    path.write_bytes(kept[:60])
    with pytest.raises(DataError, match=r"masks/3.png' is not a mask"):
        load_data(str(tmp_path), TAKES, num_calibration=12)
    path.unlink()
    with pytest.raises(DataError, match=r"images/3.png' has no mask of its name in .*masks"):
        load_data(str(tmp_path), TAKES, num_calibration=12)
