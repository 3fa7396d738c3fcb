"""What loading hands over: the model, its images and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairdeploy.input_specs import InputSpec
    from fairdeploy.records.training import TrainingImages

LabelSource = Literal["given", "predicted", "none"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes the model's input: resize, scale to [0, 1], normalise."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input image, [C, H, W]."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode, ready to be captured."""

    name: str
    module: nn.Module
    """The user's module, or the unlifted graph of a ``.pt2`` (then ``is_user_class`` is false)."""
    is_user_class: bool
    preprocessing: Preprocessing
    sha256: str
    """Of the weights, names and shapes; equal weights give equal hashes."""
    source: str
    """What the user typed: a path, ``timm:NAME`` or ``torchvision:NAME``."""
    warnings: tuple[str, ...] = ()
    """What was assumed in loading and should be told: random weights, unknown mean and std, …"""
    inputs: tuple[InputSpec, ...] = ()
    """As the user described them; empty for one image and nothing else."""
    weights: str = ""
    """Which of the file's weights these are; empty for the only ones at its top."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images as the model takes them, float32 [N, C, H, W], with int64 labels [N]."""

    images: Tensor
    labels: Tensor | None
    label_source: LabelSource
    is_synthetic: bool = False
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """What the network's other inputs take with each image, by input name, [N, ...]."""

    def __len__(self) -> int:
        return int(self.images.shape[0])


@dataclass(frozen=True, slots=True)
class DataSplits:
    """Images for each purpose, which never overlap; ``test`` is None without labels."""

    calibration: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...] | None
    source: str
    sha256: str
    """Of the calibration images and labels."""
    warnings: tuple[str, ...] = ()
    selection: ImageSet | None = None
    """Held-out images to choose a network or an epoch with: neither trained nor reported on."""
    training: TrainingImages | None = None
    """What is left to train on."""

    def image_sets(self) -> dict[str, ImageSet]:
        """The sets that were read, by what they are for."""
        sets = {
            "calibration": self.calibration,
            "test": self.test,
            "selection": self.selection,
        }
        return {what: images for what, images in sets.items() if images is not None}
