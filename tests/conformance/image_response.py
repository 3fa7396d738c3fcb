"""Whether an image's content reaches the outputs, and its noise does not drown them.

Without that, comparing outputs says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairdeploy.surgery.equivalence import relative_error
from tests.conformance.output_layers import tensors_in

MIN_RESPONSE = 1e-4
"""How much two images' outputs must differ, relative to the largest: ten times the proof's limit,
else nothing is compared."""
NOISE = 1e-5


def response(outputs: Sequence[Tensor]) -> float:
    """How much the outputs for the first two images differ, relative to the largest; of the best.

    Args:
        outputs: Of a network for at least two images, batch first.
    """
    return max(
        float((output[0] - output[1]).abs().max() / output.abs().max().clamp_min(1e-30))
        for output in outputs
    )


def noise_gain(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """How far a little noise on the inputs moves the outputs, relative to both."""
    generator = torch.Generator().manual_seed(0)
    noisy = [part + NOISE * torch.randn(part.shape, generator=generator) for part in inputs]
    with torch.no_grad():
        outputs, changed = tensors_in(network(*inputs)), tensors_in(network(*noisy))
    return relative_error(changed, outputs) / NOISE
