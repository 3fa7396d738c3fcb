"""A pool of images that are fetched only when they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.records import Preprocessing

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Model inputs, float32 [N, C, H, W], and which of the asked-for indices they are."""

    images: Tensor
    indices: Indices
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImagePool:
    """Labelled or unlabelled images, counted but not yet read."""

    size: int
    labels: Indices | None
    fetch: Callable[[Indices], Fetched]
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model's other inputs take with each image, by name, [size, ...]."""


@dataclass(frozen=True, slots=True)
class PooledData:
    """What a data source holds: one pool, or a training and a test pool."""

    train: ImagePool
    test: ImagePool | None
    class_names: tuple[str, ...] | None
    warnings: tuple[str, ...] = ()


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Subtract mean and divide by std per channel; ``images`` float32 [N, C, H, W] in [0, 1]."""
    mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)
    return (images - mean) / std


def fit_channels(images: Tensor, channels: int) -> Tensor:
    """Grey to colour by repetition, colour to grey by luminance; anything else is an error."""
    found = images.shape[1]
    if found == channels:
        return images
    if found == 1:
        return images.expand(-1, channels, -1, -1)
    if found in (3, 4) and channels == 3:
        return images[:, :3]
    if found in (3, 4) and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601
        return (images[:, :3] * weights).sum(dim=1, keepdim=True)
    raise DataError(f"the images have {found} channels, the model takes {channels}")


def fit_size(images: Tensor, height: int, width: int) -> Tensor:
    """Scale so that [height, width] is just covered, then crop the centre."""
    found_height, found_width = images.shape[-2:]
    if (found_height, found_width) == (height, width):
        return images
    scale = max(height / found_height, width / found_width)
    size = (max(height, round(found_height * scale)), max(width, round(found_width * scale)))
    images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[..., top : top + height, left : left + width]


def check_labels(
    labels: NDArray[np.generic], num_images: int, what: str, class_names: Sequence[str] | None
) -> Indices:
    """Labels as int64 [N]; one class number per image.

    Raises:
        DataError: Wrong count, not whole numbers, negative, or without a class name.
    """
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1:
        raise DataError(f"{what} has labels of shape {list(labels.shape)}; give one number each")
    if len(flat) != num_images:
        raise DataError(f"{what} has {num_images} images but {len(flat)} labels")
    if flat.dtype.kind not in "iufb" or not np.all(np.equal(flat, np.trunc(flat))):
        raise DataError(f"{what} has labels of type {flat.dtype}; give whole class numbers from 0")
    whole = flat.astype(np.int64)
    if len(whole) and whole.min() < 0:
        raise DataError(f"{what} has the label {whole.min()}; give class numbers from 0")
    if class_names is not None and len(whole) and whole.max() >= len(class_names):
        raise DataError(
            f"{what} has the label {whole.max()}, but there are only {len(class_names)} class names"
        )
    return whole
