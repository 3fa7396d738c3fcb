"""What a network takes besides the images: from the data where it has it, else random values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.graph.capture.model_inputs import ModelInputs, random_input
from fairdeploy.inputs.fingerprint import sha256_of_images
from fairdeploy.records import DataSplits, ImageSet
from fairdeploy.records.input_specs import InputSpec

OtherInputs = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape of one item and type, by input name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tensors a data source should look for besides images and labels."""

    image_name: str
    others: OtherInputs

    def checked(self, name: str, tensor: Tensor, num_images: int, where: str) -> Tensor:
        """The values of one other input in its type.

        Raises:
            DataError: A wrong shape or count, or values of another kind.
        """
        shape, dtype = self.others[name]
        if tuple(tensor.shape) != (num_images, *shape):
            raise DataError(
                f"input '{name}' {where} has shape {list(tensor.shape)}; give "
                f"{[num_images, *shape]}, one item for each of the {num_images} images"
            )
        if tensor.is_floating_point() != dtype.is_floating_point:
            raise DataError(f"input '{name}' {where} is of type {tensor.dtype}; give {dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"input '{name}' {where} holds NaN or infinite values; remove them")
        return tensor.detach().cpu().to(dtype)


def items_of(values: Tensor, item: InputSpec, what: str) -> Tensor:
    """What a main input that takes no images is given, in its type, as it is.

    Args:
        values: [N, ...] as in the input's sizes; a first size of one may be left out.
        item: The input.
        what: What the values are called.

    Raises:
        DataError: A wrong shape, or values of another kind.
    """
    shape = item.shape({})
    if shape[:1] == (1,) and tuple(values.shape[1:]) == shape[1:]:
        values = values[:, None]
    if values.dim() == 0 or tuple(values.shape[1:]) != shape or not len(values):
        raise DataError(
            f"{what} has shape {list(values.shape)}; --input {item} takes "
            f"[N, {', '.join(map(str, shape))}]"
        )
    is_float = item.dtype == "float32"
    if values.is_floating_point() != is_float or values.dtype == torch.uint8:
        raise DataError(
            f"{what} is of type {str(values.dtype).removeprefix('torch.')}; --input {item} takes "
            f"{item.dtype} and is used as it is"
        )
    if not is_float and item.num_values is not None:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= item.num_values:
            raise DataError(
                f"{what} holds {low if low < 0 else high}; --input {item} takes 0 to "
                f"{item.num_values - 1}"
            )
    return values.detach().cpu().to(getattr(torch, item.dtype))


def with_noise_for_others(splits: DataSplits, inputs: ModelInputs, seed: int) -> DataSplits:
    """Give the inputs that the data says nothing about random values, and warn.

    Returns:
        ``splits`` itself if nothing is missing.
    """
    sets = list(splits.image_sets().values())
    missing = [name for name in inputs.others if any(name not in images.others for images in sets)]
    if not missing:
        return splits
    generator = torch.Generator().manual_seed(seed)
    calibration = _filled(splits.calibration, inputs, generator)
    test = None if splits.test is None else _filled(splits.test, inputs, generator)
    selected = splits.selection
    selection = None if selected is None else _filled(selected, inputs, generator)
    names = " and ".join(f"'{name}'" for name in missing)
    warning = (
        f"the data has nothing for input {names}: random values are used, so scores and accuracy "
        "mean little; give an array of that name in the .npz, or dictionaries from the data factory"
    )
    return replace(
        splits,
        calibration=calibration,
        test=test,
        sha256=sha256_of_images(calibration),
        warnings=(*splits.warnings, warning),
        selection=selection,
        training=None,  # random values would be new ones in each round
    )


def _filled(images: ImageSet, inputs: ModelInputs, generator: torch.Generator) -> ImageSet:
    others = dict(images.others)
    for spec in inputs.specs:
        if spec.name in inputs.others and spec.name not in others:
            shape = (len(images), *spec.shape(inputs.sizes))
            others[spec.name] = random_input(spec, shape, generator)
    return replace(images, others=others)
