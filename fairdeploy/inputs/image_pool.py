"""A pool of images that are fetched only when they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.records import Preprocessing
from fairdeploy.records.inputs import WHITES

Indices = NDArray[np.int64]
Targets = NDArray[Any]
_MATRIX = 2


@dataclass(frozen=True, slots=True)
class Fetched:
    """Model inputs, float32 [N, C, H, W], and which of the asked-for indices they are."""

    images: Tensor
    indices: Indices
    warnings: tuple[str, ...] = ()
    labels: Tensor | None = None
    """Where they are read with the images."""


@dataclass(frozen=True, slots=True)
class ImagePool:
    """Labelled or unlabelled images, counted but not yet read."""

    size: int
    labels: Targets | None
    """[size, ...]"""
    fetch: Callable[[Indices], Fetched]
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model's other inputs take with each image, by name, [size, ...]."""
    reads_labels: bool = False
    """Whether labels are read with the images."""

    @property
    def is_labelled(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None or self.reads_labels


@dataclass(frozen=True, slots=True)
class PooledData:
    """What a data source holds: one pool, or a training and a test pool."""

    train: ImagePool
    test: ImagePool | None
    class_names: tuple[str, ...] | None
    warnings: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    """With what the images themselves told of it; None: as it was given."""


def with_white(
    preprocessing: Preprocessing, peaks: Sequence[int]
) -> tuple[Preprocessing, tuple[str, ...]]:
    """With a white for images of 16 bits whose highest values are ``peaks``, and a line about it.

    Cameras give 10, 12 or 14 bits in files of 16: divided by 65535 little would be left of them.
    """
    if not peaks or preprocessing.white is not None:
        return preprocessing, ()
    white = next(white for white in WHITES if max(peaks) <= white)
    return replace(preprocessing, white=white), (
        f"the images have 16 bits a colour and values up to {max(peaks)} (in {len(peaks)} of "
        f"them): {white} is taken for white; if the model was trained otherwise give --white",
    )


def check_labels(
    labels: NDArray[np.generic], num_images: int, what: str, class_names: Sequence[str] | None
) -> Targets:
    """Labels as int64 [N] where they are one whole number an image; else as they are, [N, ...].

    Raises:
        DataError: Wrong count, no finite numbers, or without a class name.
    """
    if labels.dtype.kind == "U" and labels.ndim == 1:
        labels = _classes_of_texts(labels, what, class_names)
    if labels.dtype.kind not in "iufb":
        raise DataError(
            f"{what} has labels of type {labels.dtype}; give class numbers from 0, numbers, flags, "
            "masks or texts"
        )
    if labels.ndim == 0 or len(labels) != num_images:
        count = 1 if labels.ndim == 0 else len(labels)
        raise DataError(f"{what} has {num_images} images but {count} labels")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"{what} has labels that are NaN or infinite; leave those images out")
    if labels.ndim == _MATRIX and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not is_class_number(labels):
        return labels.astype(np.float32) if labels.dtype.kind == "f" else labels
    whole = labels.astype(np.int64)
    if class_names is not None and len(whole) and whole.max() >= len(class_names):
        raise DataError(
            f"{what} has the label {whole.max()}, but there are only {len(class_names)} class names"
        )
    return whole


def _classes_of_texts(
    texts: NDArray[Any], what: str, class_names: Sequence[str] | None
) -> NDArray[np.int64]:
    """Numbers of a text's characters, [N, length], -1 behind the end."""
    if class_names is None:
        raise DataError(
            f"{what} has texts as labels; name the characters in the network's order, one class "
            "each: --class-names a,b,c, or class_names in the .npz"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    found = np.full((len(texts), max(map(len, texts), default=0) or 1), -1, dtype=np.int64)
    for row, text in zip(found, texts, strict=True):
        unknown = next((letter for letter in text if letter not in numbers), None)
        if unknown is not None:
            raise DataError(
                f"{what} has the label '{text}', and '{unknown}' is none of the "
                f"{len(numbers)} class names; add it, or leave such labels out"
            )
        row[: len(text)] = [numbers[letter] for letter in text]
    return found


def is_class_number(labels: Targets) -> bool:
    """Whether labels are one whole number an image, which may be that of a class."""
    return labels.ndim == 1 and bool(np.all(np.equal(labels, np.trunc(labels))))
