"""What is served, and what is not, of networks that give no score for each of several classes."""

from __future__ import annotations

from torch import Tensor

from fairdeploy.errors import DataError, ModelError, UsageError
from fairdeploy.records import DataSplits, PruningMethod

_NEEDS_CLASSES = "wasserstein"


def checked_output(main: Tensor, batch: int) -> Tensor:
    """The main output, whose first dimension is the images.

    Args:
        main: Of the network.
        batch: How many images it was given.

    Raises:
        ModelError: Something else comes first, as time does in recurrent networks.
    """
    if main.shape[0] != batch:
        raise ModelError(
            f"the model's output has shape {list(main.shape)} for {batch} images, so its first "
            "dimension is not the images; such outputs are not served yet: let the forward return "
            "them with the images first (output.transpose(0, 1)), or choose another --main-output"
        )
    return main


def refuse_classes(data: DataSplits, method: PruningMethod) -> None:
    """Refuse what needs classes for a network that gives one number (or one map) per image.

    Raises:
        DataError: The images have labels.
        UsageError: A signal compares classes.
    """
    if any(images.labels is not None for images in data.image_sets().values()):
        raise DataError(
            "the model gives one number per image, and labels are only compared with the largest "
            "of several scores so far; leave the labels out (images alone are enough), or let the "
            "forward of a two-class network return two scores: torch.cat([0 * x, x], 1)"
        )
    for option, name in (("--signal", method.signal), ("--protect", method.protect)):
        if name == _NEEDS_CLASSES:
            raise UsageError(
                f"{option} {name} compares classes, and the model gives one number per image; "
                f"give --data with images and no labels, or another signal: {option} l1"
            )
