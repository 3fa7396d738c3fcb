"""Image folders: class sub-folders, optionally under ``train/`` and ``test/``, or a flat folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.inputs.image_pool import Fetched, ImagePool, Indices, PooledData, normalize
from fairdeploy.manifest import open_regular
from fairdeploy.records import Preprocessing

_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
# Pillow goes by content, and gives PostScript to an interpreter.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "TGA", "MPO")
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "val", "valid", "validation")
_MAX_THREADS = 8
_MAX_SKIPPED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class _Listing:
    """Image files of one folder, and their class numbers if it has class sub-folders."""

    files: tuple[Path, ...]
    labels: Indices | None
    class_names: tuple[str, ...] | None
    warnings: tuple[str, ...] = ()


def open_image_folder(
    folder: Path, preprocessing: Preprocessing, class_names: Sequence[str] | None
) -> PooledData:
    """List the images; none is opened before it is chosen.

    Args:
        folder: Holds class sub-folders, split folders with class sub-folders, or images.
        preprocessing: How chosen images are decoded.
        class_names: The order in which the model numbers its classes; sorted names otherwise.

    Raises:
        DataError: No images, one class only, or a class that is not among ``class_names``.
    """
    train, test = _find_splits(folder)
    listing = _list_images(train, class_names)
    pool = _pool_of(listing, preprocessing)
    if test is None:
        return PooledData(pool, None, listing.class_names, listing.warnings)
    test_listing = _list_images(test, listing.class_names)
    if (listing.labels is None) != (test_listing.labels is None):
        raise DataError(f"'{train}' and '{test}' differ: only one of them has class sub-folders")
    return PooledData(
        pool,
        _pool_of(test_listing, preprocessing),
        listing.class_names,
        listing.warnings + test_listing.warnings,
    )


def _find_splits(folder: Path) -> tuple[Path, Path | None]:
    """The folders to calibrate and to test on; the second is None where there is only one."""
    names = {child.name.lower(): child for child in _sub_folders(folder)}
    if not names or not names.keys() <= {*_TRAIN_NAMES, *_TEST_NAMES}:
        # Split names beside others are classes: COCO has a class "train".
        return folder, None
    found = [names[name] for name in (*_TRAIN_NAMES, *_TEST_NAMES) if name in names]
    has_train = found[0].name.lower() in _TRAIN_NAMES
    return (found[0], found[1]) if has_train and len(found) > 1 else (found[0], None)


def _sub_folders(folder: Path) -> list[Path]:
    children = (child for child in folder.iterdir() if child.is_dir())
    return sorted((c for c in children if not c.name.startswith(".")), key=lambda c: c.name)


def _list_images(folder: Path, class_names: Sequence[str] | None) -> _Listing:
    classes = _sub_folders(folder)
    if not classes:
        return _Listing(_images_in(folder, recursive=False), None, None)
    names = tuple(class_names) if class_names is not None else tuple(c.name for c in classes)
    unknown = [child.name for child in classes if child.name not in names]
    if unknown:
        raise DataError(
            f"'{folder}' has the class '{unknown[0]}', which is not among {', '.join(names[:10])}"
            f"{', …' if len(names) > 10 else ''}"
        )
    files: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    for child in classes:
        images = _images_in(child, recursive=True, may_be_empty=True)
        files += images
        labels += [names.index(child.name)] * len(images)
        if not images:
            empty.append(child.name)
    if not files:
        raise _no_images(folder)
    if len(set(labels)) < 2:
        raise DataError(
            f"'{folder}' has images of one class only ('{names[labels[0]]}'); "
            "at least two classes are needed, or a flat folder of unlabelled images"
        )
    return _Listing(
        tuple(files), np.array(labels, dtype=np.int64), names, _listing_warnings(folder, empty)
    )


def _listing_warnings(folder: Path, empty: list[str]) -> tuple[str, ...]:
    warnings_found: tuple[str, ...] = ()
    if empty:
        warnings_found += (f"no images in the class folders {', '.join(empty[:5])} of '{folder}'",)
    strays = sum(_is_image_name(child) for child in folder.iterdir() if child.is_file())
    if strays:
        warnings_found += (f"{strays} images beside the class folders of '{folder}' are ignored",)
    return warnings_found


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _images_in(folder: Path, *, recursive: bool, may_be_empty: bool = False) -> tuple[Path, ...]:
    found = folder.rglob("*") if recursive else folder.iterdir()
    images = sorted(path for path in found if _is_image_name(path) and path.is_file())
    if not images and not may_be_empty:
        raise _no_images(folder)
    return tuple(images)


def _no_images(folder: Path) -> DataError:
    others = sorted(path.name for path in folder.rglob("*") if path.is_file())
    if not others:
        return DataError(f"'{folder}' is empty; give a folder with images in class sub-folders")
    return DataError(
        f"'{folder}' has no images, only files like '{others[0]}'; "
        "give .png, .jpg, .bmp, .webp or .tif files in class sub-folders"
    )


def _pool_of(listing: _Listing, preprocessing: Preprocessing) -> ImagePool:
    def fetch(indices: Indices) -> Fetched:
        return _decode_chosen(listing.files, indices, preprocessing)

    return ImagePool(len(listing.files), listing.labels, fetch)


def _decode_chosen(
    files: Sequence[Path], indices: Indices, preprocessing: Preprocessing
) -> Fetched:
    def decode(index: int) -> Tensor | None:
        return _decode(files[index], preprocessing)

    with (
        ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # on odd metadata; bombs are refused by size
        decoded = list(threads.map(decode, indices.tolist()))
    good = [image for image in decoded if image is not None]
    bad = [files[i] for i, image in zip(indices.tolist(), decoded, strict=True) if image is None]
    if len(bad) > _MAX_SKIPPED_SHARE * len(decoded):
        raise DataError(
            f"'{bad[0]}' is not a readable image"
            f"{f' (nor are {len(bad) - 1} others)' if len(bad) > 1 else ''}; remove or replace it"
        )
    kept = np.array([image is not None for image in decoded], dtype=np.bool_)
    skipped = (
        (f"{len(bad)} unreadable images were skipped, the first is '{bad[0]}'",) if bad else ()
    )
    images = torch.stack(good).float().div_(255)
    return Fetched(normalize(images, preprocessing), indices[kept], skipped)


def _decode(path: Path, preprocessing: Preprocessing) -> Tensor | None:
    """One image as uint8 [C, H, W], or None if the file is not a whole image."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            if limit is not None and image.width * image.height > limit:
                raise _too_large(path, f"{image.width}x{image.height} pixels")
            fitted = _fit(_as_8_bit(image), preprocessing)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "hundreds of millions of pixels") from error
    except DataError:
        raise
    except Exception:  # decoders of damaged files raise anything
        return None
    pixels = torch.from_numpy(np.array(fitted, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _too_large(path: Path, size: str) -> DataError:
    return DataError(f"'{path}' unpacks to {size}, which is refused; remove it or scale it down")


def _as_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Right mode, shorter side scaled to just cover the input, centre cropped."""
    if preprocessing.channels not in (1, 3):
        raise DataError(
            f"image files have 1 or 3 channels, the model takes {preprocessing.channels}; "
            "give an .npz or a DataLoader"
        )
    height, width = preprocessing.height, preprocessing.width
    # Decoding a large JPEG at a fraction of its size is several times faster.
    if min(image.width / width, image.height / height) >= 4:
        image.draft("RGB" if preprocessing.channels == 3 else "L", (2 * width, 2 * height))
    image = image.convert("L" if preprocessing.channels == 1 else "RGB")
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
