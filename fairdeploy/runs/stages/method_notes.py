"""What to warn of where another signal or rule than the default decides."""

from __future__ import annotations

from collections.abc import Iterator

from fairdeploy.inputs.calibration import SYNTHETIC_WARNING
from fairdeploy.records import PruningMethod
from fairdeploy.scoring.signals import reads_images

WEIGHTS_ONLY_WARNING = (
    "NO DATA GIVEN: the weights alone decide what to remove, and nothing can be said about "
    "accuracy; give --data"
)


def fitting_warning(text: str, method: PruningMethod) -> str:
    """What a warning about the images comes down to where no signal reads any."""
    is_void = text == SYNTHETIC_WARNING and not reads_images(method.signal, method.protect)
    return WEIGHTS_ONLY_WARNING if is_void else text


def method_warnings(method: PruningMethod) -> Iterator[str]:
    """What the chosen signals cannot do."""
    if method.is_self_protected and method.allocation == "tod":
        yield (
            f"'{method.signal}' removes and protects alike, so every group has the same curve and "
            "about the same share goes from each; choose another --protect, or --allocation "
            "uniform, global or isomorphic"
        )
