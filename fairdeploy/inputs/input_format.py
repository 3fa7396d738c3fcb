"""Which images a network takes: from the user, from its own configuration, or from its library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from fairdeploy.errors import UsageError
from fairdeploy.inputs.input_channels import input_channels
from fairdeploy.inputs.published_preprocessing import Published
from fairdeploy.records import ImageFitting, Preprocessing
from fairdeploy.records.input_specs import InputSpec, VaryingSize, main_of

# timm's largest is 1.15: a border of black around the image.
_LEAST_CROP, _MOST_CROP = 0.1, 2.0
_DIMS = 3

InputShape = int | tuple[int, int, int]
"""Height = width, or [C, H, W]."""


@dataclass(frozen=True, slots=True)
class InputHints:
    """What is known about the input before the network is looked at; None where unknown."""

    shape: InputShape | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | tuple[int, ...] | None = None
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
    main = main_of(hints.inputs) if hints.inputs else None
    if main is not None and not main.is_image:
        return _item(main, hints), ()
    if main is None and (shape := _item_shape(hints)) is not None:
        item = InputSpec("x", shape)
        return Preprocessing.of_item(item), (
            f"inputs of {list(shape)} are assumed, and used as they are; for another length or "
            f"size give --input {item} with its own name and sizes",
        )
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


def _item_shape(hints: InputHints) -> tuple[int, ...] | None:
    """Of what a network is known to take in place of images."""
    known = hints.published.item_shape
    if known is None and isinstance(hints.image_size, tuple) and len(hints.image_size) != _DIMS:
        known = hints.image_size
    if known is None or hints.shape is None:
        return known
    if isinstance(hints.shape, int) and len(known) > _DIMS:
        return (*known[:-2], hints.shape, hints.shape)
    raise UsageError(
        f"--input-size is for images, and the model takes {list(known)}; give --input with the "
        "name and the sizes of its input"
    )


def _item(main: InputSpec, hints: InputHints) -> Preprocessing:
    """What is no image is used as it is, at the largest of its sizes.

    Raises:
        UsageError: Something is said that only images have.
    """
    said = {
        "--input-size": hints.shape, "--mean": hints.mean, "--std": hints.std,
        "--crop-mode": hints.fitting.crop_mode, "--crop-pct": hints.fitting.crop_pct,
    }  # fmt: skip
    first = next((option for option, value in said.items() if value is not None), None)
    if first is not None:
        raise UsageError(
            f"{first} is for images, and --input {main} is used as it is; leave {first} out"
        )
    sizes = {size.name: size.largest for size in main.varying}
    return Preprocessing.of_item(replace(main, sizes=main.shape(sizes)))


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
        height, width = int(size[1]), int(size[2])
        wanted = (input_channels(network, height, width) or int(size[0]), height, width)
    if wanted is None:
        raise UsageError(
            "the model does not say how large its images are; give --input-size, "
            "for example --input-size 32 or --input-size 3,224,224; what is no image is named with "
            "its sizes: --input wave:1,16000, --input tokens:77:int64:49408"
        )
    if isinstance(wanted, int):
        wanted = (input_channels(network, wanted, wanted) or 3, wanted, wanted)
    if len(wanted) != _DIMS or min(wanted) < 1:
        raise UsageError(f"input size {list(wanted)} is impossible; give H or C,H,W, all above 0")
    return (wanted[0], wanted[1], wanted[2])


def _described_shape(
    network: nn.Module, hints: InputHints, config: Published
) -> tuple[int, int, int]:
    """The sizes of the input that takes images; one that varies is the model's own, or the largest.

    Raises:
        UsageError: ``--input-size`` says otherwise.
    """
    spec = main_of(hints.inputs)
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


def _patch_grid_size(network: nn.Module) -> tuple[int, int, int] | None:
    """Image size that a vision transformer's patch embedding was built for."""
    embedding = getattr(network, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        return None
    height, width = int(size[0]), int(size[1])
    channels = input_channels(network, height, width)
    return None if channels is None else (channels, height, width)


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
