"""What the readers of a group lose as its units go one after the other and they adapt best.

With ``H`` the products of a layer's input rows and ``P`` its inverse, removing the inputs ``J`` and
refitting all other weights by least squares adds ``tr(W_J' (P_JJ)^-1 W_J)`` to the squared error of
the outputs: the part of ``J`` that no other input explains, weighted with what the layer makes of
it (the Schur complement; optimal brain surgeon, in blocks). ``W`` and ``P`` then change as if ``J``
had never been there, so that of two copies the first costs nothing and the second everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.graph.near_ties import settled

# Relative to the mean squared input: what so few images cannot tell from zero.
DAMPING = 1e-3
# Of those that are left, a round takes this share (at least one), before it looks again.
SHARE_PER_ROUND = 1 / 32


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows of one layer's problem that units bring, equally many each."""

    units: NDArray[np.int64]
    """Places within the group, shape [U]."""
    rows: Tensor
    """int64 [U, m]: their indices among the layer's n inputs."""


class AdaptingLayer:
    """One layer (or one group of a convolution) that loses inputs and makes the best of it."""

    def __init__(self, gram: Tensor, weight: Tensor, inputs: Sequence[Inputs]) -> None:
        """Start with all inputs.

        Args:
            gram: Products of the inputs' rows, float64 [n, n].
            weight: Map to the outputs, float64 [n, o].
            inputs: Which of the n belong to units of the group.
        """
        scale = gram.diagonal().mean().clamp_min(1e-12)
        damped = gram + DAMPING * scale * torch.eye(len(gram), dtype=gram.dtype)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._weight = weight.clone()
        self._energy = float((weight * (gram @ weight)).sum()) or 1.0
        self._inputs = tuple(inputs)

    def costs(self, is_left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Added squared error if one unit goes, as a share of the outputs' energy.

        Args:
            is_left: Which units are there still, bool [N]; others cost nothing.
        """
        costs = np.zeros(len(is_left))
        for part in self._inputs:
            left = is_left[part.units]
            rows = part.rows[torch.from_numpy(left)]
            blocks = self._inverse[rows[:, :, None], rows[:, None, :]]
            weight = self._weight[rows]
            explained = weight * torch.linalg.solve(blocks, weight)
            costs[part.units[left]] += explained.sum((1, 2)).numpy() / self._energy
        return costs

    def remove(self, units: NDArray[np.int64]) -> None:
        """Take these units' inputs away and adapt to it (changes the layer)."""
        gone = [part.rows[np.isin(part.units, units)].reshape(-1) for part in self._inputs]
        rows = torch.cat(gone)
        if not len(rows):
            return
        columns = self._inverse[:, rows]
        factor = torch.linalg.solve(columns[rows], columns.mT)
        self._weight -= factor.mT @ self._weight[rows]
        self._inverse -= columns @ factor


def elimination_costs(layers: Sequence[AdaptingLayer], num_units: int) -> NDArray[np.float64]:
    """What goes with each unit and all that went before it, float64 [N]; changes ``layers``.

    The cheapest unit goes first, then the cheapest of those that are left, and so on: scores rise
    in that order.
    """
    scores = np.zeros(num_units)
    is_left = np.ones(num_units, dtype=np.bool_)
    total = 0.0
    while is_left.any():
        costs = sum((layer.costs(is_left) for layer in layers), start=np.zeros(num_units))
        left = np.flatnonzero(is_left)
        count = max(1, int(len(left) * SHARE_PER_ROUND))
        cheapest = left[np.argsort(settled(costs[left]), kind="stable")[:count]]
        for layer in layers:
            layer.remove(cheapest)
        scores[cheapest] = total + np.cumsum(np.maximum(costs[cheapest], 0.0))
        total = float(scores[cheapest[-1]])
        is_left[cheapest] = False
    return scores
