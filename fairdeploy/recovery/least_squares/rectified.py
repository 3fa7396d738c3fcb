"""Spend no effort where a ReLU cuts: refine a solution whose target is rectified afterwards.

Where the target is negative, any negative output is as good as any other. With the present output
``p`` and target ``y``, the goal becomes ``y`` where ``y > 0`` and ``min(p, 0)`` elsewhere. The
squared distance to that goal bounds the squared error after the ReLU from above and equals it at
``p``, so that each round lowers (or keeps) that error, penalty included. The products of the rows
stay the same: a round costs two thin matrix products and one triangular solve.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairdeploy.recovery.least_squares.normal_equations import NormalEquations, RidgeSystem
from fairdeploy.recovery.least_squares.sample_blocks import SampleBlock

# More rounds lower a layer's own error further, but no longer that of the network (tried 1, 2, 5).
NUM_ROUNDS = 2


def refine_rectified(
    sums: NormalEquations,
    blocks: Sequence[SampleBlock],
    change: Tensor,
    ridge: float,
    num_free: int,
) -> Tensor:
    """A change of the weights, float64 [G, n, o], with no larger error after a ReLU.

    Args:
        sums: Over the rows of all ``blocks``.
        blocks: The rows and targets themselves.
        change: To begin with.
        ridge: Penalty that it was found with.
        num_free: See ``RidgeSystem``.
    """
    system = RidgeSystem(sums, ridge, num_free)
    for _ in range(NUM_ROUNDS):
        cross = torch.zeros_like(sums.cross)
        for block in blocks:
            output = block.present + block.rows @ change.float()
            goal = torch.where(block.targets > 0, block.targets, output.clamp_max(0))
            cross += block.rows.mT @ (goal - block.present)
        change = system.change(cross)
    return change
