"""Whether an image's content reaches the outputs: without that, comparing them says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

MIN_RESPONSE = 1e-4
"""How much two images' outputs must differ, relative to the largest: ten times the proof's limit,
else nothing is compared."""


def response(outputs: Sequence[Tensor]) -> float:
    """How much the outputs for the first two images differ, relative to the largest; of the best.

    Args:
        outputs: Of a network for at least two images, batch first.
    """
    return max(
        float((output[0] - output[1]).abs().max() / output.abs().max().clamp_min(1e-30))
        for output in outputs
    )
