"""Image folders in their usual layouts, and the ways in which they are broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from fairdeploy.errors import DataError
from fairdeploy.inputs.calibration import load_data
from tests.inputs.tiny_inputs import TINY, grey_values, write_class_folders, write_image


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "Validation"])
def test_train_folder_calibrates_and_test_folder_tests(tmp_path: Path, test_name: str) -> None:
    write_class_folders(tmp_path / "train", {"ant": 3, "bee": 3})
    for index, name in enumerate(("ant", "bee")):
        write_image(tmp_path / test_name / name / "x.png", 100 + index)
    splits = load_data(str(tmp_path), TINY)
    assert splits.test is not None
    assert splits.test.labels is not None
    assert sorted(grey_values(splits.calibration.images)) == [0, 1, 2, 10, 11, 12]
    assert grey_values(splits.test.images) == [100, 101]
    assert splits.test.labels.tolist() == [0, 1]


def test_folder_named_train_beside_other_classes_is_a_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"bus": 2, "train": 2})
    assert load_data(str(tmp_path), TINY).class_names == ("bus", "train")


def test_given_class_names_set_the_numbers(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 2, "bee": 2})
    splits = load_data(str(tmp_path), TINY, num_calibration=2, class_names=("cow", "bee", "ant"))
    assert splits.calibration.labels is not None
    assert sorted(splits.calibration.labels.tolist()) == [1, 2]
    with pytest.raises(DataError, match="has the class 'bee', which is not among ant, cow"):
        load_data(str(tmp_path), TINY, class_names=("ant", "cow"))


def test_test_folder_with_an_unknown_class_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"ant": 2, "bee": 2})
    write_class_folders(tmp_path / "test", {"ant": 2, "elk": 2})
    with pytest.raises(DataError, match=r"test' has the class 'elk', which is not among ant, bee"):
        load_data(str(tmp_path), TINY)


def test_only_chosen_files_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path, {"ant": 20, "bee": 20})
    loaded: list[object] = []
    real_load = PngImageFile.load

    def counting_load(image: PngImageFile) -> Any:
        if image.filename not in loaded:
            loaded.append(image.filename)
        return real_load(image)

    monkeypatch.setattr(PngImageFile, "load", counting_load)
    load_data(str(tmp_path), TINY, num_calibration=4, max_test=2)
    assert len(loaded) == 6


def test_images_of_the_right_size_are_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "x.png")
    splits = load_data(str(tmp_path), replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3))
    recovered = splits.calibration.images[0].permute(1, 2, 0) * 255
    assert torch.equal(recovered.round().to(torch.uint8), torch.from_numpy(pixels))


def test_wide_images_lose_their_sides_not_their_shape(tmp_path: Path) -> None:
    # Black sides, white middle: the centre crop keeps the middle.
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 255
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "x.png")
    images = load_data(str(tmp_path), TINY).calibration.images
    assert images.shape == (2, 3, 8, 8)
    assert float(images[:, :, :, 2:6].min()) > 0.9


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_colour_modes_become_what_the_model_takes(tmp_path: Path, mode: str) -> None:
    for name in ("ant", "bee", "cow"):
        write_image(tmp_path / name / "x.png", 255, mode=mode)
    grey = replace(TINY, channels=1, mean=(0.0,), std=(1.0,))
    assert load_data(str(tmp_path), TINY).calibration.images.shape[1:] == (3, 8, 8)
    images = load_data(str(tmp_path), grey).calibration.images
    assert images.shape[1:] == (1, 8, 8)
    assert torch.equal(images, torch.ones_like(images))


def test_sixteen_bit_images_keep_their_range(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cow"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / name / "x.png")
    grey = replace(TINY, channels=1, mean=(0.0,), std=(1.0,))
    images = load_data(str(tmp_path), grey).calibration.images
    assert float(images.mean()) == pytest.approx(0x8000 / 0xFFFF)


def test_empty_folder_and_folder_of_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty; give a folder with images in class sub-folders"):
        load_data(str(tmp_path), TINY)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"has no images, only files like 'notes\.txt'"):
        load_data(str(tmp_path), TINY)
    (tmp_path / "ant").mkdir()
    with pytest.raises(DataError, match=r"has no images, only files like 'notes\.txt'"):
        load_data(str(tmp_path), TINY)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 3, "bee": 0})
    (tmp_path / "bee").mkdir()
    with pytest.raises(DataError, match=r"images of one class only \('ant'\); at least two"):
        load_data(str(tmp_path), TINY)


def test_file_that_is_not_an_image_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 3, "bee": 3})
    (tmp_path / "bee" / "000.png").write_text("not an image")
    with pytest.raises(DataError, match=r"bee/000\.png' is not a readable image; remove or repl"):
        load_data(str(tmp_path), TINY)


def test_one_bad_file_in_150_is_skipped_with_a_warning(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 75, "bee": 75})
    whole = (tmp_path / "bee" / "000.png").read_bytes()
    (tmp_path / "bee" / "000.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "test").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "train" / name)
        write_image(tmp_path / "test" / name / "x.png", 200)
    splits = load_data(str(tmp_path), TINY)
    assert any("1 unreadable images were skipped" in warning for warning in splits.warnings)
    assert splits.calibration.labels is not None
    assert splits.calibration.labels.tolist() == [0] * 75 + [1] * 74
    assert grey_values(splits.calibration.images)[75:] == list(range(11, 85))


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path, {"ant": 2, "bee": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match=r"unpacks to 8x8 pixels, which is refused"):
        load_data(str(tmp_path), TINY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"unpacks to hundreds of millions of pixels"):
        load_data(str(tmp_path), TINY)


def test_empty_classes_and_stray_images_are_told(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 3, "bee": 3})
    (tmp_path / "cow").mkdir()
    write_image(tmp_path / "stray.png", 1)
    warnings = load_data(str(tmp_path), TINY).warnings
    assert any("no images in the class folders cow" in warning for warning in warnings)
    assert any("1 images beside the class folders" in warning for warning in warnings)
