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

from fairdeploy.recovery.normal_equations import NormalEquations, RidgeSystem

# More rounds lower a layer's own error further, but no longer that of the network (tried 1, 2, 5).
NUM_ROUNDS = 2

Block = tuple[Tensor, Tensor]
"""Rows [G, M, n] and their targets [G, M, o]."""


def refine_rectified(
    sums: NormalEquations,
    blocks: Sequence[Block],
    old_weights: Tensor,
    solution: Tensor,
    ridge: float,
    num_free: int,
) -> Tensor:
    """Weights, float64 [G, n, o], whose error after a ReLU is no larger than the solution's.

    Args:
        sums: Over the rows of all ``blocks``.
        blocks: The rows and targets themselves.
        old_weights: What the penalty holds on to.
        solution: Weights to begin with.
        ridge: Penalty that they were found with.
        num_free: See ``RidgeSystem``.
    """
    system = RidgeSystem(sums, ridge, num_free)
    for _ in range(NUM_ROUNDS):
        present = solution.float()
        cross = torch.zeros_like(sums.cross)
        for rows, targets in blocks:
            output = rows @ present
            cross += rows.mT @ torch.where(targets > 0, targets, output.clamp_max(0))
        solution = system.weights(cross, old_weights)
    return solution
