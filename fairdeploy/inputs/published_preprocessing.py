"""How a network's publisher prepares images: timm's configuration or torchvision's transforms."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fairdeploy.errors import UsageError
from fairdeploy.records import CROP_MODES, INTERPOLATIONS, CropMode, ImageFitting, Interpolation
from fairdeploy.records.architecture import Architecture
from fairdeploy.records.method import choice_of

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_IMAGENET_CLASSES = 1000
# Of most torchvision weights, for modules that do not tell what they are called.
_TORCHVISION_SIZE, _TORCHVISION_CROP = 224, 224 / 256
_CLIP_SIZE, _CLIP_FRAMES = 112, 16
_INCEPTION_SIZE, _INCEPTION_CROP = 299, 299 / 342


@dataclass(frozen=True, slots=True)
class Published:
    """What is known; None where the publisher says nothing."""

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    num_classes: int | None = None
    item_shape: tuple[int, ...] | None = None
    """Of what the network takes in place of images."""

    def fitting(self, height: int, width: int, *, may_be_other: bool) -> ImageFitting:
        """How images are fitted to this size.

        Args:
            height: Of the network's input.
            width: The same.
            may_be_other: Whether somebody else may have trained the network for other classes: at
                another size than the published one, the whole image is then the better guess.
        """
        is_usual = self.input_size is None or self.input_size[1:] == (height, width)
        if may_be_other and not is_usual:
            return ImageFitting(interpolation=self.interpolation)
        return ImageFitting(self.crop_pct, self.crop_mode, self.interpolation)


def published_preprocessing(
    network: nn.Module, architecture: Architecture | None, source: str
) -> Published:
    """What the network itself tells, or the library that it comes from.

    Args:
        network: A module with timm's ``pretrained_cfg``, of torchvision, or of anybody.
        architecture: How it was built, where that is known.
        source: The model's file: torchvision's own are called as they were published.

    Raises:
        UsageError: A configuration has a value that cannot be.
    """
    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(network, attribute, None)
        to_dict = getattr(config, "to_dict", None)  # timm's PretrainedCfg
        config = to_dict() if callable(to_dict) else config
        if isinstance(config, Mapping) and (config.get("input_size") or config.get("mean")):
            return _from_config(config)
    if type(network).__module__.startswith("torchvision.models"):
        return _from_torchvision(network, architecture, source)
    return Published()


def _from_config(config: Mapping[str, Any]) -> Published:
    """Of timm's ``pretrained_cfg``, which users give their own networks too."""
    size, mean, std = (config.get(key) or None for key in ("input_size", "mean", "std"))
    mode, method = config.get("crop_mode"), config.get("interpolation")
    try:
        return Published(
            None if size is None else (int(size[0]), int(size[1]), int(size[2])),
            None if mean is None else tuple(map(float, mean)),
            None if std is None else tuple(map(float, std)),
            float(config["crop_pct"]) if config.get("crop_pct") else None,
            _choice(mode, CROP_MODES, "crop_mode"),
            _choice(method, INTERPOLATIONS, "interpolation"),
            config.get("num_classes") or None,
        )
    except (TypeError, ValueError, IndexError) as error:
        raise UsageError(
            f"the model's pretrained_cfg says input_size {size}, mean {mean}, std {std}, crop_pct "
            f"{config.get('crop_pct')}, which cannot be; mend it, or delete it from the model and "
            "give --input-size, --mean and --std"
        ) from error


def _choice(value: object, choices: tuple[Any, ...], key: str) -> Any:
    found = choice_of(value, choices)
    if value is not None and found is None:
        raise UsageError(
            f"the model's pretrained_cfg says {key} '{value}', which is not known; mend it to one "
            f"of {', '.join(choices)}"
        )
    return found


def _from_torchvision(
    network: nn.Module, architecture: Architecture | None, source: str
) -> Published:
    if type(network).__module__.startswith("torchvision.models.video"):
        name = type(network).__name__
        size = _CLIP_SIZE if name == "VideoResNet" else _TORCHVISION_SIZE
        return Published(item_shape=(3, _CLIP_FRAMES, size, size))
    transforms = _transforms(architecture, source)
    if transforms is not None and hasattr(transforms, "crop_size"):
        crop, resize = transforms.crop_size[0], transforms.resize_size[0]
        return Published(
            (3, crop, crop),
            tuple(transforms.mean),
            tuple(transforms.std),
            crop / resize,
            "center",
            _choice(transforms.interpolation.value, INTERPOLATIONS, "interpolation"),
            _IMAGENET_CLASSES,
        )
    is_inception = type(network).__name__ == "Inception3"
    size = _INCEPTION_SIZE if is_inception else _TORCHVISION_SIZE
    crop_pct = _INCEPTION_CROP if is_inception else _TORCHVISION_CROP
    return Published(
        (3, size, size), _IMAGENET_MEAN, _IMAGENET_STD, crop_pct, "center", "bilinear",
        _IMAGENET_CLASSES,
    )  # fmt: skip


def _transforms(architecture: Architecture | None, source: str) -> Any:
    """Of the weights whose file this is, else of those that the library itself would take."""
    if architecture is None or architecture.family != "torchvision":
        return None
    models = importlib.import_module("torchvision.models")
    entries = models.get_model_weights(architecture.name)
    by_file = {Path(entry.url).name: entry for entry in entries}
    entry = by_file.get(Path(source).name, getattr(entries, "DEFAULT", None))
    made = entry.transforms() if entry is not None else None
    return made if type(made).__name__ == "ImageClassification" else None
