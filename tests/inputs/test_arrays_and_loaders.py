"""Images from ``.npz`` files and from the user's own data loaders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairdeploy.errors import DataError
from fairdeploy.inputs import calibration
from fairdeploy.inputs.calibration import load_data
from tests.inputs.tiny_inputs import TINY, grey_values

LABELS = np.array([0, 1] * 5)
RAW = replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3)

LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset

IMAGES = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 3, 8, 8)
LABELS = torch.arange(40) % 4

def loader():
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7, shuffle=True)

def sorted_loader():
    order = LABELS.argsort()
    return DataLoader(TensorDataset(IMAGES[order], LABELS[order]), batch_size=7)

def pair():
    return (DataLoader(TensorDataset(IMAGES[:30], LABELS[:30]), batch_size=7),
            DataLoader(TensorDataset(IMAGES[30:], LABELS[30:]), batch_size=7))

def unlabelled():
    return DataLoader(IMAGES, batch_size=7)

def wrong_shape():
    return [(torch.zeros(2, 3, 9, 9), torch.zeros(2)), (torch.zeros(2, 3, 9, 9), torch.zeros(2))]

def dictionaries():
    return DataLoader([{"x": 1.0}] * 4)

def number():
    return 3

def empty():
    return iter(())

def endless():
    while True:
        yield IMAGES, LABELS

def fails():
    raise OSError("disk on fire")
"""


def write_npz(path: Path, **arrays: object) -> str:
    """An ``.npz`` and its path as text."""
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x_train", "y_train")])
def test_uint8_images_with_channels_last_are_scaled_and_normalised(
    tmp_path: Path, images: str, labels: str
) -> None:
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    splits = load_data(
        write_npz(tmp_path / "a.npz", **{images: pixels, labels: LABELS}), TINY, num_calibration=4
    )
    assert splits.test is not None
    together = grey_values(splits.calibration.images) + grey_values(splits.test.images)
    assert sorted(together) == list(range(10))
    assert splits.calibration.labels is not None
    assert [v % 2 for v in grey_values(splits.calibration.images)] == (
        splits.calibration.labels.tolist()
    )


def test_layouts_of_float_images_agree(tmp_path: Path) -> None:
    first = np.random.default_rng(0).random((10, 3, 8, 8), dtype=np.float32)
    one = load_data(write_npz(tmp_path / "a.npz", images=first, labels=LABELS), RAW)
    last = np.moveaxis(first, 1, 3)
    other = load_data(write_npz(tmp_path / "b.npz", images=last, labels=LABELS), RAW)
    assert one.sha256 == other.sha256


def test_test_arrays_are_the_test_set(tmp_path: Path) -> None:
    images = np.zeros((10, 8, 8, 3), np.uint8)
    held_out = np.full((4, 8, 8, 3), 7, np.uint8)
    spec = write_npz(
        tmp_path / "a.npz", x_train=images, y_train=LABELS, x_test=held_out, y_test=LABELS[:4]
    )
    splits = load_data(spec, TINY)
    assert splits.test is not None
    assert len(splits.calibration) == 10
    assert grey_values(splits.test.images) == [7, 7, 7, 7]


def test_grey_images_of_another_size_are_fitted(tmp_path: Path) -> None:
    images = np.full((10, 12, 20), 51, np.uint8)
    other = {"test_images": images[:2] + 1, "test_labels": LABELS[:2]}
    path = write_npz(tmp_path / "a.npz", images=images, labels=LABELS[:, None], **other)
    splits = load_data(path, RAW)
    assert splits.calibration.images.shape == (10, 3, 8, 8)
    assert torch.allclose(splits.calibration.images, torch.tensor(0.2))


ZEROS = np.zeros((10, 8, 8, 3), np.uint8)
FLOATS = np.zeros((10, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": ZEROS, "labels": LABELS[:7]}, "has 10 images but 7 labels"),
        ({"images": ZEROS, "labels": LABELS * 0}, "are all of class 0; at least two classes"),
        ({"images": FLOATS + np.nan, "labels": LABELS}, "holds NaN or infinite values"),
        ({"images": FLOATS + 255, "labels": LABELS}, r"values from 255 to 255; give floats in \["),
        ({"images": FLOATS.astype(np.int64), "labels": LABELS}, "is of type int64; give uint8"),
        ({"images": FLOATS[:, 0, 0], "labels": LABELS}, r"has shape \[10, 8\]; give \[N, H, W, C"),
        ({"images": ZEROS.repeat(2, 3), "labels": LABELS}, "has 6 channels, the model takes 3"),
        ({"pictures": ZEROS}, "has no images: its arrays are pictures; name them images, x"),
        ({"images": np.array([{}, {}], dtype=object)}, "holds Python objects; save plain arrays"),
    ],
)
def test_bad_arrays_are_one_clear_line(
    tmp_path: Path, arrays: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(write_npz(tmp_path / "a.npz", **arrays), TINY)


def test_label_without_a_class_name_is_refused(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "a.npz", images=ZEROS, labels=LABELS * 2)
    with pytest.raises(DataError, match="label 2, but there are only 2 class names"):
        load_data(spec, TINY, class_names=("ant", "bee"))


def test_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(DataError, match=r"is damaged or not an \.npz file"):
        load_data(str(tmp_path / "a.npz"), TINY)
    write_npz(tmp_path / "b.npz", images=ZEROS)
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"is damaged or not an \.npz file"):
        load_data(str(tmp_path / "b.npz"), TINY)


def loader_spec(folder: Path, name: str) -> str:
    """``file.py:factory`` of one of the loaders above."""
    (folder / "user_loaders.py").write_text(LOADERS)
    return f"{folder / 'user_loaders.py'}:{name}"


@pytest.mark.parametrize("name", ["loader", "sorted_loader", "endless"])
def test_loader_images_are_used_as_they_are_and_balanced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(calibration, "_MAX_TEST_BYTES", 2**17)  # 170 images
    splits = load_data(loader_spec(tmp_path, name), TINY, num_calibration=8, max_test=5)
    images, labels = splits.calibration.images, splits.calibration.labels
    assert labels is not None
    assert splits.test is not None
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [int(value) % 4 for value in images[:, 0, 0, 0]] == labels.tolist()
    assert len(splits.test) == 5


def test_shuffling_loader_is_seeded_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    spec, before = loader_spec(tmp_path, "loader"), torch.get_rng_state()
    first, again = (load_data(spec, TINY, num_calibration=8, seed=4).sha256 for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)


def test_pair_of_loaders_is_train_and_test(tmp_path: Path) -> None:
    splits = load_data(loader_spec(tmp_path, "pair"), TINY)
    assert splits.test is not None
    assert len(splits.calibration) == 30
    assert splits.test.images[:, 0, 0, 0].tolist() == list(range(30, 40))


def test_unlabelled_loader_gives_unlabelled_images(tmp_path: Path) -> None:
    splits = load_data(loader_spec(tmp_path, "unlabelled"), TINY)
    assert splits.calibration.labels is None
    assert splits.test is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_shape", r"batches of shape \[2, 3, 9, 9\]; the model takes \[N, 3, 8, 8\]"),
        ("dictionaries", "yields dictionaries with 'x'; the images must be called 'image'"),
        ("number", "returned a int; it must return a DataLoader"),
        ("empty", "is empty; it must yield at least one batch"),
        ("fails", "fails with OSError: disk on fire"),
        ("absent", "has no 'absent'"),
    ],
)
def test_bad_loaders_are_one_clear_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(loader_spec(tmp_path, name), TINY)
