"""Which images a network takes: from the user, from its own configuration, or from its library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from fairdeploy.errors import UsageError
from fairdeploy.inputs.published_preprocessing import Published
from fairdeploy.records import ImageFitting, Preprocessing
from fairdeploy.records.input_specs import InputSpec, VaryingSize, image_of

# timm's largest is 1.15: a border of black around the image.
_LEAST_CROP, _MOST_CROP = 0.1, 2.0

InputShape = int | tuple[int, int, int]
"""Height = width, or [C, H, W]."""


@dataclass(frozen=True, slots=True)
class InputHints:
    """What is known about the input before the network is looked at; None where unknown."""

    shape: InputShape | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: InputShape | None = None
    """From the architecture's options or an exported graph; weaker than ``shape``."""
    inputs: Sequence[InputSpec] = ()
    """As the user described them."""
    fitting: ImageFitting = field(default_factory=ImageFitting)
    published: Published = field(default_factory=Published)
    may_be_other: bool = True
    """Whether somebody else than the publisher may have trained the network."""


def find_preprocessing(
    network: nn.Module, hints: InputHints
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The input format, with a warning for each thing that had to be assumed.

    Raises:
        UsageError: Nobody knows the size of the images, or a value is impossible.
    """
    config = hints.published
    if hints.inputs:
        channels, height, width = _described_shape(network, hints, config)
    else:
        channels, height, width = _find_shape(network, hints, config)
    warnings: tuple[str, ...] = ()
    mean, std = hints.mean or config.mean, hints.std or config.std
    if mean is None or std is None:
        warnings = (
            "the model does not say how its images are normalised; they are scaled to [0, 1] only; "
            "give --mean and --std if it was trained otherwise",
        )
    may_be_other = hints.may_be_other and _num_classes(network) != config.num_classes
    asked, usual = hints.fitting, config.fitting(height, width, may_be_other=may_be_other)
    return (
        Preprocessing(
            channels=channels,
            height=height,
            width=width,
            mean=_per_channel("--mean", mean or (0.0,), channels, hints.mean is None),
            std=_checked_std(_per_channel("--std", std or (1.0,), channels, hints.std is None)),
            crop_pct=_checked_share(asked.crop_pct or usual.crop_pct or 1.0),
            crop_mode=asked.crop_mode or usual.crop_mode or "center",
            interpolation=asked.interpolation or usual.interpolation or "bicubic",
            channel_order=asked.channel_order or "rgb",
            white=asked.white,
        ),
        warnings,
    )


def _num_classes(network: nn.Module) -> int | None:
    """Of the classifier: what the module says, or the length of its last linear layer."""
    said = getattr(network, "num_classes", None)
    lengths = [m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    return said if isinstance(said, int) else (lengths[-1] if lengths else None)


def _checked_share(crop_pct: float) -> float:
    if _LEAST_CROP <= crop_pct <= _MOST_CROP:
        return crop_pct
    hint = f"did you mean {crop_pct / 100:g}? " if 1 < crop_pct <= 100 else ""
    raise UsageError(
        f"--crop-pct {crop_pct:g} is not a share of the resized image; {hint}"
        "use 0.875, as timm does, or 1 for the whole image"
    )


def image_size_from_option(value: object) -> int | None:
    """``img_size`` of an architecture's options, if it is a plain square."""
    if isinstance(value, (tuple, list)) and len(set(value)) == 1:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _find_shape(network: nn.Module, hints: InputHints, config: Published) -> tuple[int, int, int]:
    wanted = hints.shape or hints.image_size or _patch_grid_size(network)
    size = config.input_size
    if wanted is None and size is not None:
        wanted = (_first_channels(network) or int(size[0]), int(size[1]), int(size[2]))
    if wanted is None:
        raise UsageError(
            "the model does not say how large its images are; give --input-size, "
            "for example --input-size 32 or --input-size 3,224,224"
        )
    if isinstance(wanted, int):
        wanted = (_first_channels(network) or 3, wanted, wanted)
    if len(wanted) != 3 or min(wanted) < 1:
        raise UsageError(f"input size {list(wanted)} is impossible; give H or C,H,W, all above 0")
    return wanted


def _described_shape(
    network: nn.Module, hints: InputHints, config: Published
) -> tuple[int, int, int]:
    """The sizes of the input that takes images; one that varies is the model's own, or the largest.

    Raises:
        UsageError: ``--input-size`` says otherwise, or no input takes images.
    """
    spec = image_of(hints.inputs)
    is_asked = hints.shape is not None
    is_known = is_asked or bool(hints.image_size or config.input_size)
    usual = _find_shape(network, hints, config) if is_known else None
    shape = [
        size if isinstance(size, int) else _size_at_capture(size, usual and usual[place])
        for place, size in enumerate(spec.sizes)
    ]
    if is_asked and usual is not None and tuple(shape) != usual:
        raise UsageError(
            f"--input-size {','.join(map(str, usual))} does not fit --input {spec}; leave one out"
        )
    return (shape[0], shape[1], shape[2])


def _size_at_capture(size: VaryingSize, usual: int | None) -> int:
    return usual if usual in size.choices and usual is not None else size.largest


def _first_channels(network: nn.Module) -> int | None:
    """Input channels of the first convolution in definition order, where images mostly enter."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def _patch_grid_size(network: nn.Module) -> tuple[int, int, int] | None:
    """Image size that a vision transformer's patch embedding was built for."""
    embedding = getattr(network, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    channels = _first_channels(network)
    if channels is None or not isinstance(size, (tuple, list)) or len(size) != 2:
        return None
    return (channels, int(size[0]), int(size[1]))


def _per_channel(
    option: str, values: Sequence[float], channels: int, may_average: bool
) -> tuple[float, ...]:
    """One value per channel; a single one serves all."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels and may_average:
        # A grey-scale variant of a network whose configuration is for colour images.
        return (sum(numbers) / len(numbers),) * channels
    if len(numbers) != channels:
        raise UsageError(f"{option} has {len(numbers)} values; give 1 or {channels}")
    return numbers


def _checked_std(std: tuple[float, ...]) -> tuple[float, ...]:
    if not all(value > 0 for value in std):
        raise UsageError(f"--std {list(std)} must be above 0 in every channel")
    return std
