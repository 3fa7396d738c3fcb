"""The demo's data: scikit-learn's handwritten digits as an image folder of 32x32 PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fairdeploy.errors import DataError

NUM_CLASSES = 10
IMAGE_SIZE = 32
_TEST_SHARE = 0.25
_BRIGHTEST = 16.0


@dataclass(frozen=True, slots=True)
class DigitSplit:
    """Grey images, uint8 [N, 32, 32], and their digits, int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_digit_splits(seed: int) -> tuple[DigitSplit, DigitSplit]:
    """Train and test images; every digit has the same share in both.

    Raises:
        DataError: scikit-learn, which carries the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "the demo's images come with scikit-learn, which is not installed; "
            "run pip install 'fairdeploy[demo]'"
        ) from error
    digits = load_digits()
    images = np.stack([_enlarged(image) for image in digits.images])
    labels = digits.target.astype(np.int64)
    is_test = _stratified_choice(labels, _TEST_SHARE, seed)
    return (
        DigitSplit(images[~is_test], labels[~is_test]),
        DigitSplit(images[is_test], labels[is_test]),
    )


def write_image_folder(folder: Path, split: DigitSplit) -> None:
    """Write ``folder/<digit>/<number>.png``, one file per image."""
    for digit in range(NUM_CLASSES):
        (folder / str(digit)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{number:04d}.png")


def _enlarged(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An 8x8 image of values 0 to 16 as 32x32 of 0 to 255."""
    small = Image.fromarray(np.round(image * (255 / _BRIGHTEST)).astype(np.uint8))
    return np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _stratified_choice(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """A mask that holds for ``share`` of the items of each label."""
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        chosen[places[: round(share * len(places))]] = True
    return chosen
