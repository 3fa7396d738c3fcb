"""Read a class-balanced set of 32x32 images from an image folder or a zip of one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def read_images(source: Path, num_images: int, split: str = "train") -> tuple[Tensor, Tensor]:
    """The first images of each class, class after class, normalised.

    Args:
        source: A folder or a ``.zip`` that holds ``.../<split>/<class>/<image>.jpg``.
        num_images: In all; the same number of each class.

    Returns:
        Images float32 [N, 3, 32, 32] and labels int64 [N].
    """
    found = image_files(source, num_images, split)
    classes = sorted({name for name, _ in found})
    images = torch.stack([_tensor_from_bytes(content) for _, content in found])
    return images, torch.tensor([classes.index(name) for name, _ in found])


def image_files(source: Path, num_images: int, split: str) -> list[tuple[str, bytes]]:
    """The same images as their class and what their files hold."""
    names, read = _open(source)
    by_class: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() in {".jpg", ".png"} and path.parts[-3:-2] == (split,):
            by_class.setdefault(path.parts[-2], []).append(name)
    per_class = num_images // max(len(by_class), 1)
    found = [(cls, read(name)) for cls in sorted(by_class) for name in by_class[cls][:per_class]]
    if not found:
        raise SystemExit(f"no images under '{split}/<class>/' in {source}")
    return found


def shuffled(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The same images in a seeded random order, so that batches mix the classes."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order], labels[order]


def _open(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    if source.is_dir():
        files = {str(path.relative_to(source).as_posix()): path for path in source.rglob("*")}
        return list(files), lambda name: files[name].read_bytes()
    archive = zipfile.ZipFile(source)
    return archive.namelist(), archive.read


def _tensor_from_bytes(raw: bytes) -> Tensor:
    pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"), dtype=np.float32) / 255
    scaled = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
