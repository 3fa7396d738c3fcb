"""Least squares from sums: rows stream through once, and only their products are kept.

For ``targets ~ rows @ weights`` the sums ``rows' rows`` and ``rows' targets`` hold everything that
the solution, its error on these rows, and the mean and variance of its outputs depend on. Several
problems of equal size (the groups of a grouped convolution) are batched in the first dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# float32 products of a short block, added up in float64, lose nothing that matters here.
BLOCK_ROWS = 4096
# Penalties relative to the mean squared input, from "trust the images" to "trust the old weights".
RIDGE_GRID = (3e1, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


class NormalEquations:
    """Running sums of G least-squares problems with n unknowns and o outputs each."""

    def __init__(self, num_groups: int, num_unknowns: int, num_outputs: int) -> None:
        """Start with no rows.

        Args:
            num_groups: Problems solved side by side, G.
            num_unknowns: Columns of the rows, n.
            num_outputs: Columns of the targets, o.
        """
        shape = (num_groups, num_unknowns)
        self.gram = torch.zeros(*shape, num_unknowns, dtype=torch.float64)
        self.cross = torch.zeros(*shape, num_outputs, dtype=torch.float64)
        self.target_square = torch.zeros(num_groups, num_outputs, dtype=torch.float64)
        self.target_sum = torch.zeros(num_groups, num_outputs, dtype=torch.float64)
        self.num_rows = 0

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Add rows to the sums.

        Args:
            rows: float32, shape [G, M, n].
            targets: float32, shape [G, M, o].
        """
        self.num_rows += rows.shape[1]
        for start in range(0, rows.shape[1], BLOCK_ROWS):
            block = rows[:, start : start + BLOCK_ROWS]
            goal = targets[:, start : start + BLOCK_ROWS]
            self.gram += block.mT @ block
            self.cross += block.mT @ goal
            self.target_square += goal.square().sum(dim=1)
            self.target_sum += goal.sum(dim=1)

    def merged(self, other: NormalEquations) -> NormalEquations:
        """The sums over the rows of both."""
        both = NormalEquations.__new__(NormalEquations)
        both.gram = self.gram + other.gram
        both.cross = self.cross + other.cross
        both.target_square = self.target_square + other.target_square
        both.target_sum = self.target_sum + other.target_sum
        both.num_rows = self.num_rows + other.num_rows
        return both

    def squared_error(self, weights: Tensor) -> Tensor:
        """Sum over all rows of ``(rows @ weights - targets)**2``, shape [G, o].

        Args:
            weights: float64, shape [G, n, o].
        """
        explained = (weights * (self.gram @ weights - 2 * self.cross)).sum(dim=1)
        return (self.target_square + explained).clamp_min(0)

    def target_variation(self) -> float:
        """Sum of squares of all targets around their means."""
        around_mean = self.target_square - self.target_sum.square() / max(self.num_rows, 1)
        return float(around_mean.clamp_min(0).sum())


class RidgeSystem:
    """The factored matrix of one problem and penalty: solves for any targets."""

    def __init__(self, sums: NormalEquations, ridge: float, num_free: int) -> None:
        """Factor ``gram + ridge * s``, with ``s`` the mean of the penalised diagonal.

        Args:
            sums: Of the rows.
            ridge: Penalty, relative to the mean squared input.
            num_free: The last so many unknowns (a bias column) are hardly penalised.
        """
        num_unknowns = sums.gram.shape[1]
        num_penalised = max(num_unknowns - num_free, 1)
        diagonal = sums.gram.diagonal(dim1=1, dim2=2)
        # A floor, so that inputs that are zero everywhere leave a matrix that can be factored.
        scale = diagonal[:, :num_penalised].mean(dim=1, keepdim=True).clamp_min(1e-12)
        penalty = (ridge * scale).repeat(1, num_unknowns)
        penalty[:, num_penalised:] = 1e-9 * scale
        self._gram = sums.gram
        self._factor, failures = torch.linalg.cholesky_ex(sums.gram + torch.diag_embed(penalty))
        self.is_solvable = not bool(failures.any())

    def weights(self, cross: Tensor, old_weights: Tensor) -> Tensor:
        """Best weights near the old ones for targets with these products, float64 [G, n, o]."""
        wanted = cross - self._gram @ old_weights
        return old_weights + torch.cholesky_solve(wanted, self._factor)


@dataclass(frozen=True, slots=True)
class RidgeSolution:
    """Weights [G, n, o], the penalty that was chosen, and the error on held-out rows.

    Errors are shares of the targets' variation. The penalty is infinite where no change of the
    weights helped.
    """

    weights: Tensor
    ridge: float
    error_before: float
    error_after: float


def solve_ridge(
    fit: NormalEquations, held_out: NormalEquations, old_weights: Tensor, num_free: int = 0
) -> RidgeSolution:
    """Change the weights as far as held-out rows confirm that it helps.

    Minimises ``|rows @ (old + change) - targets|^2 + ridge * s * |change|^2``. The penalty is the
    best on ``held_out``; the solution then uses all rows.

    Args:
        fit: Sums that the candidates are solved from.
        held_out: Sums that choose among them.
        old_weights: float64, shape [G, n, o].
        num_free: See ``RidgeSystem``.
    """
    before = float(held_out.squared_error(old_weights).sum())
    best_error, best_ridge = before, math.inf
    for ridge in RIDGE_GRID:
        system = RidgeSystem(fit, ridge, num_free)
        if not system.is_solvable:
            break  # smaller penalties are no better conditioned
        error = float(held_out.squared_error(system.weights(fit.cross, old_weights)).sum())
        if error < best_error:
            best_error, best_ridge = error, ridge
        elif best_ridge < math.inf:
            break  # the error is unimodal in the penalty, but for noise
    weights = old_weights
    if best_ridge < math.inf:
        everything = fit.merged(held_out)
        system = RidgeSystem(everything, best_ridge, num_free)
        weights = system.weights(everything.cross, old_weights)
    variation = max(held_out.target_variation(), 1e-30)
    return RidgeSolution(weights, best_ridge, before / variation, best_error / variation)
