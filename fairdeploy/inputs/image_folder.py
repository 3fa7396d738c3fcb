"""Image folders: class sub-folders, optionally under ``train/`` and ``test/``, or a flat folder.

``images/`` beside ``masks/`` holds images and, under the same names, their masks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.files import require_regular
from fairdeploy.inputs.image_pool import Fetched, ImagePool, Indices, PooledData, with_white
from fairdeploy.records import ClassOrder, Preprocessing
from fairdeploy.records.image_preparation import decoded, deep_pixels, fitted, prepared
from fairdeploy.records.inputs import natural_key

_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
# Pillow goes by content, and gives PostScript to an interpreter.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "TGA", "MPO")
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "val", "valid", "validation")
_IMAGE_NAMES = ("images", "image", "imgs", "img")
_MASK_NAMES = ("masks", "mask", "annotations", "labels")
_MASK_DIMS = 2
_MOST_CLASSES = 60_000
_MAX_THREADS = 8
_MAX_SKIPPED_SHARE = 0.01
_MAX_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class _Listing:
    """Image files of one folder, and their class numbers if it has class sub-folders."""

    files: tuple[Path, ...]
    labels: Indices | None
    class_names: tuple[str, ...] | None
    masks: tuple[Path, ...] | None = None
    """Of the files, in their order."""
    warnings: tuple[str, ...] = ()


def open_image_folder(
    folder: Path,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    class_order: ClassOrder = "natural",
) -> PooledData:
    """List the images; none is read before it is chosen, but for the range of deep ones.

    Args:
        folder: Holds class sub-folders, split folders with class sub-folders, or images.
        preprocessing: How chosen images are decoded.
        class_names: The order in which the model numbers its classes; sorted names otherwise.
        class_order: How names are sorted: 2 before 10 (as timm does), or as plain texts.

    Raises:
        DataError: No images, one class only, or a class that is not among ``class_names``.
    """
    images, masks = _with_masks(folder)
    train, test = _find_splits(images)

    def list_images(part: Path, names: Sequence[str] | None) -> _Listing:
        if masks is None:
            return _list_images(part, names, class_order)
        return _list_masked(part, masks / part.relative_to(images), names)

    listing = list_images(train, class_names)
    preprocessing, told = _with_white(preprocessing, listing.files)
    pool = _pool_of(listing, preprocessing)
    if test is None:
        return PooledData(pool, None, listing.class_names, listing.warnings + told, preprocessing)
    test_listing = list_images(test, listing.class_names)
    if (listing.labels is None) != (test_listing.labels is None):
        raise DataError(f"'{train}' and '{test}' differ: only one of them has class sub-folders")
    return PooledData(
        pool,
        _pool_of(test_listing, preprocessing),
        listing.class_names,
        listing.warnings + test_listing.warnings + told,
        preprocessing,
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


def _sub_folders(folder: Path, order: ClassOrder = "natural") -> list[Path]:
    children = (child for child in folder.iterdir() if child.is_dir())
    by = natural_key if order == "natural" else str
    return sorted((c for c in children if not c.name.startswith(".")), key=lambda c: by(c.name))


def _list_images(folder: Path, class_names: Sequence[str] | None, order: ClassOrder) -> _Listing:
    classes = _sub_folders(folder, order)
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
        tuple(files), np.array(labels, dtype=np.int64), names,
        warnings=_listing_warnings(folder, empty),
    )  # fmt: skip


def _with_masks(folder: Path) -> tuple[Path, Path | None]:
    """The folder of the images, and that of their masks if there is one."""
    names = {child.name.lower(): child for child in _sub_folders(folder)}
    images = next((names[name] for name in _IMAGE_NAMES if name in names), None)
    masks = next((names[name] for name in _MASK_NAMES if name in names), None)
    if images is None or masks is None or not _images_in(masks, recursive=True, may_be_empty=True):
        return folder, None
    return images, masks


def _list_masked(folder: Path, masks: Path, names: Sequence[str] | None) -> _Listing:
    """Images with the mask of the same name.

    Raises:
        DataError: An image has none.
    """
    files = _images_in(folder, recursive=True)
    known: dict[Path, Path] = {}
    if masks.is_dir():
        found = _images_in(masks, recursive=True, may_be_empty=True)
        known = {path.relative_to(masks).with_suffix(""): path for path in found}
    paired = [known.get(path.relative_to(folder).with_suffix("")) for path in files]
    for path, mask in zip(files, paired, strict=True):
        if mask is None:
            raise DataError(
                f"'{path}' has no mask of its name in '{masks}'; add it, or move the image away"
            )
    class_names = None if names is None else tuple(names)
    return _Listing(files, None, class_names, tuple(m for m in paired if m is not None))


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
        fetched = _decode_chosen(listing.files, indices, preprocessing)
        if listing.masks is None:
            return fetched
        pairs = [(listing.files[i], listing.masks[i]) for i in fetched.indices.tolist()]
        masks = [_decode_mask(*pair, preprocessing) for pair in pairs]
        return replace(fetched, labels=torch.stack(masks))

    return ImagePool(
        len(listing.files), listing.labels, fetch, reads_labels=listing.masks is not None
    )


def _decode_mask(file: Path, path: Path, preprocessing: Preprocessing) -> Tensor:
    """Class numbers, int32 [H, W], cut like the image; -1 where that has a border.

    Raises:
        DataError: Not a whole image of one channel, or of another size than ``file``.
    """
    size = _opened(file, lambda image: (image.height, image.width))
    pixels = _opened(path, np.asarray)
    if pixels is None or pixels.ndim != _MASK_DIMS or pixels.dtype.kind not in "bui":
        raise DataError(
            f"'{path}' is not a mask; give an image of one channel that holds class numbers (a "
            "palette is fine, colours are not)"
        )
    if size is not None and pixels.shape != size:
        raise DataError(
            f"'{path}' has {pixels.shape[1]}x{pixels.shape[0]} pixels, and its image "
            f"{size[1]}x{size[0]}; give masks of the size of their images"
        )
    # One more than the class, so that the zeros of a border are none.
    numbers = (np.clip(pixels.astype(np.int64), -1, _MOST_CLASSES) + 1).astype(np.uint16)
    told = asdict(preprocessing) | {"interpolation": "nearest", "mean": (0.0,), "channels": 1}
    cut = fitted(numbers[:, :, None], told)[:, :, 0]
    return torch.from_numpy(cut.astype(np.int32) - 1)


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
    return Fetched(torch.stack(good), indices[kept], skipped)


def _decode(path: Path, preprocessing: Preprocessing) -> Tensor | None:
    """One image as the model takes it [C, H, W], or None if the file is not a whole image."""
    if preprocessing.channels not in (1, 3):
        raise DataError(
            f"image files have 1 or 3 channels, the model takes {preprocessing.channels}; "
            "give an .npz or a DataLoader"
        )
    told = asdict(preprocessing)
    pixels = _opened(path, lambda image: decoded(image, told))
    return None if pixels is None else torch.from_numpy(prepared(pixels, told))


def _opened(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What ``read`` makes of the opened file; None if it is not a whole image."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        require_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            if limit is not None and image.width * image.height > limit:
                raise _too_large(path, f"{image.width}x{image.height} pixels")
            return read(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "hundreds of millions of pixels") from error
    except DataError:
        raise
    except Exception:  # decoders of damaged files raise anything
        return None


def _too_large(path: Path, size: str) -> DataError:
    return DataError(f"'{path}' unpacks to {size}, which is refused; remove it or scale it down")


def _with_white(
    preprocessing: Preprocessing, files: Sequence[Path]
) -> tuple[Preprocessing, tuple[str, ...]]:
    """With the white of deep images, where nobody gave it and some are deep."""
    looked_at = files[:: max(1, len(files) // _MAX_LOOKED_AT)]
    if preprocessing.white is not None:
        return preprocessing, ()
    peaks = [peak for path in looked_at if (peak := _opened(path, _deep_peak)) is not None]
    return with_white(preprocessing, peaks)


def _deep_peak(image: Image.Image) -> int | None:
    """The highest value of an image of 16 bits; the pixels of usual ones are not even read."""
    pixels = deep_pixels(image)
    return None if pixels is None or pixels.dtype != np.uint16 else int(pixels.max())
