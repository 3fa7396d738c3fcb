"""Images and labels from an ``.npz`` file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.inputs.archives import ZIP_ERRORS, opened_archive
from fairdeploy.inputs.image_pool import (
    Fetched,
    ImagePool,
    Indices,
    PooledData,
    check_labels,
    with_white,
)
from fairdeploy.inputs.other_inputs import Wanted, items_of
from fairdeploy.records import Preprocessing
from fairdeploy.records.image_preparation import prepared, with_channels
from fairdeploy.records.input_specs import InputSpec

_TRAIN_IMAGES = ("images", "x", "x_train", "train_images", "images_train")
_TRAIN_LABELS = ("labels", "y", "y_train", "train_labels", "labels_train")
_TEST_IMAGES = ("test_images", "x_test", "images_test", "val_images", "x_val")
_TEST_LABELS = ("test_labels", "y_test", "labels_test", "val_labels", "y_val")
_NAMES = "class_names"
_CHANNEL_COUNTS = (1, 3, 4)
_ROUNDING = 1e-3
_FEW, _BYTE = 256, 255

Array = NDArray[np.generic]


def open_array_file(
    path: Path,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    wanted: Wanted | None = None,
) -> PooledData:
    """Read an ``.npz`` with ``images`` (uint8 or float in [0, 1]) and ``labels``.

    Arrays are [N, H, W], [N, H, W, C] or [N, C, H, W]; ``class_names`` may name the classes. Names
    such as ``x_train``, ``y_train``, ``x_test`` and ``y_test`` are known too. What other inputs
    take lies under their own names, with ``test_`` before them for the test images, as it is.

    Raises:
        DataError: Not an ``.npz`` of plain arrays, no images in it, or labels that do not fit.
    """
    everything = _read_arrays(path)
    class_names = _class_names(path, everything) if class_names is None else class_names
    arrays = everything if wanted is None else _without_others(everything, wanted)
    preprocessing, told = _with_what_images_tell(path, arrays, preprocessing)
    train = _pool_of(path, arrays, (_TRAIN_IMAGES, _TRAIN_LABELS), preprocessing, class_names)
    test = _pool_of(path, arrays, (_TEST_IMAGES, _TEST_LABELS), preprocessing, class_names)
    if wanted is not None:
        train = _with_others(train, "", path, everything, wanted)
        test = _with_others(test, "test_", path, everything, wanted)
    if train is None:
        raise DataError(
            f"'{path}' has no images: its arrays are {', '.join(arrays) or 'none'}; "
            f"name them {', '.join(_TRAIN_IMAGES[:3])} and {', '.join(_TRAIN_LABELS[:3])}"
        )
    names = tuple(class_names) if class_names is not None else None
    return PooledData(train, test, names, told, preprocessing)


_UNLIKE_PIXELS = (
    "the images in '{}' are not within [0, 1]: they are used as they are, not normalised, moved or "
    "mirrored; if they are images after all save them as uint8"
)


def _with_what_images_tell(
    path: Path, arrays: Mapping[str, Array], preprocessing: Preprocessing
) -> tuple[Preprocessing, tuple[str, ...]]:
    name = next((name for name in _TRAIN_IMAGES if name in arrays), None)
    if name is None or not arrays[name].size or preprocessing.item is not None:
        return preprocessing, ()
    if _are_unlike_pixels(arrays[name], preprocessing):
        item = InputSpec("image", preprocessing.shape)
        return Preprocessing.of_item(item), (_UNLIKE_PIXELS.format(path),)
    if arrays[name].dtype != np.uint16:
        return preprocessing, ()
    peaks = [int(peak) for peak in arrays[name].reshape(len(arrays[name]), -1).max(1)]
    return with_white(preprocessing, peaks)


def _are_unlike_pixels(values: Array, preprocessing: Preprocessing) -> bool:
    """Spectrograms and the like: floats of the input's shape that are no shares, nor bytes.

    Where it is known how images are normalised these are images, and a mistake.
    """
    is_said = any(preprocessing.mean) or any(value != 1 for value in preprocessing.std)
    shapes = [
        preprocessing.shape,
        *([preprocessing.shape[1:]] if preprocessing.channels == 1 else []),
    ]
    if is_said or values.dtype.kind != "f" or values.shape[1:] not in shapes:
        return False
    some = values[:_FEW]
    low, high = float(some.min()), float(some.max())
    are_bytes = low >= 0 and high <= _BYTE and bool((some == some.round()).all())
    return not are_bytes and not (low >= -_ROUNDING and high <= 1 + _ROUNDING)


def _class_names(path: Path, arrays: Mapping[str, Array]) -> tuple[str, ...] | None:
    """What the file calls its classes, in the order of their numbers."""
    names = arrays.get(_NAMES)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"'{_NAMES}' in '{path}' is of type {names.dtype} and shape {list(names.shape)}; give "
            "one text for each class"
        )
    return tuple(str(name) for name in names)


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with opened_archive(path, DataError) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _read_array(archive, name) for name in names}
    except ZIP_ERRORS as error:
        if "allow_pickle" in str(error):
            reason = "holds Python objects; save plain arrays with numpy.savez"
        else:
            reason = "is damaged or not an .npz file; save it with numpy.savez"
        raise DataError(f"'{path}' {reason}") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    """One array, if its header tells no more than its file holds: numpy takes the memory first."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0
        if version > (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
        raise ValueError("an array is larger than its file")
    with archive.open(name) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _pool_of(
    path: Path,
    arrays: Mapping[str, Array],
    names: tuple[Sequence[str], Sequence[str]],
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
) -> ImagePool | None:
    images_name = next((name for name in names[0] if name in arrays), None)
    labels_name = next((name for name in names[1] if name in arrays), None)
    if images_name is None:
        return None
    what = f"'{images_name}' in '{path}'"
    given, labels = arrays[images_name], None
    if not given.ndim:
        raise DataError(f"{what} is a single number; give an array with a row for each image")
    if labels_name is not None:
        labels = check_labels(arrays[labels_name], len(given), what, class_names)
    if preprocessing.item is not None:
        return ImagePool(len(given), labels, _item_reader(given, preprocessing.item, what))
    images = _channels_last_or_first(given, what, preprocessing)

    def fetch(indices: Indices) -> Fetched:
        return Fetched(_inputs_from(images[indices], what, preprocessing), indices)

    return ImagePool(len(images), labels, fetch)


def _item_reader(given: Array, item: InputSpec, what: str) -> Callable[[Indices], Fetched]:
    """Takes what is no image as it is."""
    if given.dtype.kind not in "biuf" or (given.dtype.itemsize < 2 and given.dtype.kind != "i"):
        raise DataError(f"{what} is of type {given.dtype}; --input {item} takes {item.dtype}")
    items = items_of(torch.from_numpy(given), item, what)
    return lambda indices: Fetched(items[torch.from_numpy(np.asarray(indices))], indices)


def _with_others(
    pool: ImagePool | None, prefix: str, path: Path, arrays: Mapping[str, Array], wanted: Wanted
) -> ImagePool | None:
    """The pool with what the file has for other inputs."""
    if pool is None:
        return None
    found = {name: arrays[prefix + name] for name in wanted.others if prefix + name in arrays}
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"input '{name}' in '{path}' is of type {array.dtype}; give numbers")
    others = {
        name: wanted.checked(name, torch.from_numpy(array), pool.size, f"in '{path}'")
        for name, array in found.items()
    }
    return replace(pool, others=others)


def _without_others(arrays: Mapping[str, Array], wanted: Wanted) -> dict[str, Array]:
    """What can be images or labels; images may also be called like the model's input."""
    taken = {prefix + name for name in wanted.others for prefix in ("", "test_")}
    left = {name: array for name, array in arrays.items() if name not in taken}
    for prefix, usual in (("", _TRAIN_IMAGES[0]), ("test_", _TEST_IMAGES[0])):
        if prefix + wanted.image_name in left:
            left.setdefault(usual, left[prefix + wanted.image_name])
    return left


def _channels_last_or_first(images: Array, what: str, preprocessing: Preprocessing) -> Array:
    """A view of the images as [N, C, H, W]."""
    if images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype.itemsize > 2):
        raise DataError(
            f"{what} is of type {images.dtype}; give uint8, uint16, or floats in [0, 1]"
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{what} has shape {list(images.shape)}; give [N, H, W, C], [N, C, H, W] or [N, H, W]"
        )
    if images.ndim == 3:
        return images[:, np.newaxis]
    first, last = images.shape[1], images.shape[3]
    is_first = first == preprocessing.channels or first in _CHANNEL_COUNTS
    is_last = last == preprocessing.channels or last in _CHANNEL_COUNTS
    # Where both fit: bytes come from image libraries (channels last), floats from torch.
    if is_last and (not is_first or images.dtype.kind == "u"):
        return np.moveaxis(images, 3, 1)
    if is_first:
        return images
    raise DataError(f"{what} has {last} channels, the model takes {preprocessing.channels}")


def _inputs_from(images: Array, what: str, preprocessing: Preprocessing) -> Tensor:
    if images.dtype.kind == "f":
        images = _checked_floats(images, what)
    channels, told = preprocessing.channels, asdict(preprocessing)
    if channels not in (images.shape[1], 1, 3) or images.shape[1] not in (
        channels,
        *_CHANNEL_COUNTS,
    ):
        raise DataError(f"the images have {images.shape[1]} channels, the model takes {channels}")
    pixels = np.moveaxis(images, 1, 3)
    if pixels.shape[3] != channels:
        pixels = pixels[..., :3]
    return torch.stack(
        [torch.from_numpy(prepared(with_channels(one, channels), told)) for one in pixels]
    )


def _checked_floats(images: Array, what: str) -> Array:
    values = images.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise DataError(f"{what} holds NaN or infinite values; save it without them")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise DataError(
            f"{what} has values from {low:.4g} to {high:.4g}; give floats in [0, 1], before "
            "normalisation, or uint8; what is no image (a spectrogram) needs no --mean and --std"
        )
    return np.clip(values, 0, 1)
