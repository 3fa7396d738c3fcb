"""From an image file to a network's input: decode, resize, crop or pad, scale, normalise.

The steps are those of timm's evaluation transform and of torchvision's weights, value by value.
What follows the imports is part of every ``run.py`` too, so it needs Python 3.8, numpy and Pillow
alone and takes its numbers from the file's metadata: ``told`` is ``Preprocessing`` as a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Told = dict[str, Any]

# ---- from here on: part of run.py ----

WHITE = 255
DEEP_WHITE = 65535
_DRAFT_FACTOR = 4


def prepared(pixels: Any, told: Told) -> Any:
    """Float32 [channels, height, width] as the network takes it, from ``read_pixels``."""
    mean, std = (np.array(told[key], dtype=np.float32) for key in ("mean", "std"))
    values = fitted(pixels, told).astype(np.float32) / np.float32(white_of(pixels, told))
    if told.get("channel_order", "rgb") == "bgr":
        values = values[:, :, ::-1]
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))


def white_of(pixels: Any, told: Told) -> float:
    """The pixel value that becomes one."""
    if pixels.dtype == np.uint8:
        return WHITE
    return float(told.get("white") or DEEP_WHITE) if pixels.dtype == np.uint16 else 1.0


def read_pixels(path: Path, told: Told) -> Any:
    """An image as uint8, uint16 or float32 [height, width, channels]; floats are from 0 to 1."""
    channels = told["channels"]
    if path.suffix == ".npy":
        pixels = np.load(path, allow_pickle=False)
        is_known = pixels.dtype in (np.uint8, np.uint16)
        if not is_known or pixels.ndim != 3 or pixels.shape[2] != channels:
            raise ValueError(f"'{path}' is not uint8 or uint16 [height, width, {channels}]")
        return pixels
    with pillow().open(path) as image:
        return decoded(image, told)


def decoded(image: Any, told: Told) -> Any:
    """The pixels of an opened file, grey or RGB as the network takes it."""
    channels = told["channels"]
    deep = deep_pixels(image)
    if deep is not None:
        return with_channels(deep, channels)
    mode = "L" if channels == 1 else "RGB"
    height, width = scale_size(told)
    # Decoding a large JPEG at a fraction of its size is several times faster.
    if min(image.width / width, image.height / height) >= _DRAFT_FACTOR:
        image.draft(mode, (2 * width, 2 * height))
    pixels = np.asarray(image.convert(mode))
    return pixels[:, :, None] if channels == 1 else pixels


def deep_pixels(image: Any) -> Any:
    """Pixels of more than 8 bits [height, width, channels]; None for the usual images.

    Pillow itself clips them at 255, or drops the lower byte of each colour.
    """
    if image.mode.startswith("I"):
        return np.clip(np.asarray(image), 0, DEEP_WHITE).astype(np.uint16)[:, :, None]
    if image.mode == "F":
        return np.clip(np.nan_to_num(np.asarray(image)), 0, 1)[:, :, None]
    tile = image.tile[0] if len(getattr(image, "tile", ())) == 1 else None
    raw_mode = tile[3] if tile is not None and image.format == "PNG" else None
    if raw_mode not in ("RGB;16B", "RGBA;16B"):
        return None
    # The unpacker for the other byte order picks the lower bytes of the same data.
    low = pillow().open(image.filename if image.filename else image.fp)
    low.tile = [(*low.tile[0][:3], raw_mode.replace("16B", "16L"))]
    with low:
        high, lower = (np.asarray(one)[:, :, :3].astype(np.uint16) for one in (image, low))
    return high * 256 + lower


def with_channels(pixels: Any, channels: int) -> Any:
    """Grey repeated for RGB, RGB weighted for grey (ITU-R BT.601)."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    grey = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(grey).astype(pixels.dtype)[:, :, None]


def fitted(pixels: Any, told: Told) -> Any:
    """Resized, then cut or padded to the network's size [height, width, channels]."""
    size = resized_size(pixels.shape[:2], told)
    if size != pixels.shape[:2]:
        pixels = resized(pixels, size, told)
    return cropped(pixels, (told["height"], told["width"]), told)


def cropped(pixels: Any, wanted: Sequence[int], told: Told) -> Any:
    """The centre of this height and width, with borders where there is less."""
    pixels = padded(pixels, wanted, told)
    # Python rounds halves to even, as torchvision and timm do here.
    top, left = (round((pixels.shape[axis] - wanted[axis]) / 2) for axis in (0, 1))
    return pixels[top : top + wanted[0], left : left + wanted[1]]


def padded(pixels: Any, wanted: Sequence[int], told: Told) -> Any:
    """At least as large as ``wanted``: black around it, or the mean with ``border``."""
    missing = [max(0, wanted[axis] - pixels.shape[axis]) for axis in (0, 1)]
    if not any(missing):
        return pixels
    fill = np.zeros(pixels.shape[2])
    if told.get("crop_mode") == "border":
        fill = np.rint(WHITE * np.array(told["mean"])) / WHITE * white_of(pixels, told)
        fill = fill[::-1] if told.get("channel_order") == "bgr" else fill
    height, width = pixels.shape[0] + missing[0], pixels.shape[1] + missing[1]
    canvas = np.empty((height, width, pixels.shape[2]), dtype=np.float64)
    canvas[:] = fill
    top, left = missing[0] // 2, missing[1] // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return (canvas if pixels.dtype == np.float32 else np.rint(canvas)).astype(pixels.dtype)


def scale_size(told: Told) -> Any:
    """Height and width that the image is resized for; the crop is cut from there."""
    share = told.get("crop_pct") or 1.0
    return int(told["height"] / share), int(told["width"] / share)


def resized_size(found: Sequence[int], told: Told) -> Any:
    """What an image of this height and width is resized to."""
    target = scale_size(told)
    mode = told.get("crop_mode", "center")
    if mode == "squash":
        return target
    if mode == "center" and target[0] == target[1]:
        shorter = min(found)
        return tuple(target[0] * side // shorter for side in found)
    ratios = [found[axis] / target[axis] for axis in (0, 1)]
    ratio = max(ratios) if mode == "border" else min(ratios)
    return tuple(max(1, round(side / ratio)) for side in found)


def resized(pixels: Any, size: Sequence[int], told: Told) -> Any:
    """The image at another height and width, one channel at a time."""
    library = pillow()
    method = getattr(library, told.get("interpolation", "bicubic").upper())
    kind = np.uint8 if pixels.dtype == np.uint8 else np.float32
    found = [
        library.fromarray(pixels[:, :, channel].astype(kind)).resize((size[1], size[0]), method)
        for channel in range(pixels.shape[2])
    ]
    result = np.stack([np.asarray(plane) for plane in found], axis=2)
    if pixels.dtype == np.uint16:
        result = np.clip(np.rint(result), 0, DEEP_WHITE)
    elif pixels.dtype == np.float32:
        result = np.clip(result, 0, 1)
    return result.astype(pixels.dtype)


def pillow() -> Any:
    """Pillow's Image module."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "image files and other sizes need Pillow: pip install pillow; or give .npy files "
            "(uint8, [height, width, channels]) of the network's own size"
        ) from error
    return Image


def fit_in_words(told: Mapping[str, Any]) -> str:
    """How an image gets to its size: ``shorter side to 256 (bilinear), centre 224x224``."""
    height, width = scale_size(dict(told))
    target = f"{height}" if height == width else f"{height}x{width}"
    mode, method = told.get("crop_mode", "center"), told.get("interpolation", "bicubic")
    way = {
        "squash": f"squashed to {height}x{width}",
        "border": f"longer side scaled to fit {target}, borders of the mean",
    }.get(mode, f"shorter side scaled to {target}")
    return f"{way} ({method}), then the centre of {told['height']}x{told['width']}"


def pixels_in_words(told: Mapping[str, Any]) -> str:
    """How pixel values become numbers."""
    order = told.get("channel_order", "rgb").upper() if told["channels"] == 3 else "grey"
    white = told.get("white") or 255
    return f"{order}, divided by {white}, minus {told['mean']}, divided by {told['std']}"
