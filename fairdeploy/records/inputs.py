"""What loading hands over: the model, its images and their labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairdeploy.records.input_specs import InputSpec
    from fairdeploy.records.judgement import NotJudged
    from fairdeploy.records.training import TrainingImages

LabelSource = Literal["given", "predicted", "none"]


CropMode = Literal["center", "squash", "border"]
"""``center``: the shorter side fits, then the centre; ``squash``: both sides fit, in any shape;
``border``: the longer side fits, with borders of the mean. As timm calls them."""
CROP_MODES: tuple[CropMode, ...] = ("center", "squash", "border")
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = (
    "bicubic", "bilinear", "nearest", "lanczos", "box", "hamming",
)  # fmt: skip
ClassOrder = Literal["natural", "text"]
"""How class folders are sorted: 2 before 10, or 10 before 2."""
CLASS_ORDERS: tuple[ClassOrder, ...] = ("natural", "text")
ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("rgb", "bgr")
WHITES = (255, 1023, 4095, 16383, 65535)
"""Values of white in images of 8, 10, 12, 14 and 16 bits."""


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts ``2`` before ``10`` and does not mind case, as timm does; the name breaks ties."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple(int(part) if part.isdecimal() else part for part in parts), name


@dataclass(frozen=True, slots=True)
class ImageFitting:
    """How images are resized, cut and scaled as the user said; None where nothing was said."""

    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    white: int | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes the model's input: resize, crop, scale to [0, 1], normalise.

    ``image_preparation`` does what it says.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    """Share of the resized image that is kept, in each direction."""
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"
    channel_order: ChannelOrder = "rgb"
    white: int | None = None
    """The pixel value that becomes one in images of more than 8 bits; None: 65535."""
    item: InputSpec | None = None
    """What the model takes in place of images (clips, volumes, signals, tokens), used as it is; its
    sizes are fixed. The other fields then say nothing."""

    def told(self) -> dict[str, Any] | None:
        """What ``image_preparation`` reads; None where there are no images to prepare."""
        fields = asdict(self)
        return fields if fields.pop("item") is None else None

    @classmethod
    def of_item(cls, item: InputSpec) -> Preprocessing:
        """None: the data are used as they are."""
        return cls(0, 0, 0, (), (), item=item)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: of an image [C, H, W]."""
        return (
            (self.channels, self.height, self.width) if self.item is None else self.item.shape({})
        )


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
    """Images as the model takes them, float32 [N, C, H, W], with what is right about each."""

    images: Tensor
    labels: Tensor | None
    """Of classes int64 [N]; other tasks have numbers, flags or masks, [N, ...]."""
    label_source: LabelSource
    is_synthetic: bool = False
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """What the network's other inputs take with each image, by input name, [N, ...]."""

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def unlabelled(self) -> ImageSet:
        """The images alone."""
        return replace(self, labels=None, label_source="none")

    def part(self, chosen: Tensor) -> ImageSet:
        """Some of them, by place or by a mask [N]."""
        return replace(
            self,
            images=self.images[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            others={name: tensor[chosen] for name, tensor in self.others.items()},
        )


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
    preprocessing: Preprocessing | None = None
    """With what the images themselves told of it; None: as it was given."""
    not_judged: NotJudged | None = None
    """Why nothing can be said about accuracy, where labels and answers do not belong together."""

    def unlabelled(self) -> DataSplits:
        """The same images without their labels."""
        training, selection, test = self.training, self.selection, self.test
        return replace(
            self,
            calibration=self.calibration.unlabelled(),
            test=None if test is None else test.unlabelled(),
            selection=None if selection is None else selection.unlabelled(),
            training=None if training is None else replace(training, has_labels=False),
        )

    def image_sets(self) -> dict[str, ImageSet]:
        """The sets that were read, by what they are for."""
        sets = {
            "calibration": self.calibration,
            "test": self.test,
            "selection": self.selection,
        }
        return {what: images for what, images in sets.items() if images is not None}
