"""Ridge regression from sums: rows stream through once, and only their products are kept.

What is sought is a *change* of weights such that ``rows @ change`` gives a wanted change of the
outputs, the residual. The sums ``rows' rows`` and ``rows' residuals`` hold everything that the
solution and its error depend on; being sums over small residuals, not over whole outputs, they
lose little to rounding. Several problems of equal size (the groups of a grouped convolution) are
batched in the first dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# float32 products of a short block, added up in float64, lose nothing that matters here.
BLOCK_ROWS = 4096
# Share of the error: candidates nearer to each other differ by the rounding of these products.
ROUNDING = 1e-6
# Penalties relative to the mean squared input, from "trust the old weights" to "trust the images".
RIDGE_GRID = (3e1, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


class NormalEquations:
    """Running sums of G least-squares problems with n unknowns and o outputs each."""

    def __init__(self, num_groups: int, num_unknowns: int, num_outputs: int) -> None:
        """Start with no rows.

        Args:
            num_groups: Problems solved side by side, G.
            num_unknowns: Columns of the rows, n.
            num_outputs: Columns of the residuals, o.
        """
        self.gram = torch.zeros(num_groups, num_unknowns, num_unknowns, dtype=torch.float64)
        self.cross = torch.zeros(num_groups, num_unknowns, num_outputs, dtype=torch.float64)
        self.residual_square = 0.0
        self.num_rows = 0

    def add(self, rows: Tensor, residuals: Tensor) -> None:
        """Add rows to the sums.

        Args:
            rows: float32, shape [G, M, n].
            residuals: float32, shape [G, M, o].
        """
        self.num_rows += rows.shape[1]
        self.residual_square += float(residuals.square().sum(dtype=torch.float64))
        for start in range(0, rows.shape[1], BLOCK_ROWS):
            block = rows[:, start : start + BLOCK_ROWS]
            self.gram += block.mT @ block
            self.cross += block.mT @ residuals[:, start : start + BLOCK_ROWS]

    def merged(self, other: NormalEquations) -> NormalEquations:
        """The sums over the rows of both."""
        both = NormalEquations.__new__(NormalEquations)
        both.gram = self.gram + other.gram
        both.cross = self.cross + other.cross
        both.residual_square = self.residual_square + other.residual_square
        both.num_rows = self.num_rows + other.num_rows
        return both

    def squared_error(self, change: Tensor) -> float:
        """Sum over all rows of ``(rows @ change - residuals)**2``.

        Args:
            change: float64, shape [G, n, o].
        """
        explained = (change * (self.gram @ change - 2 * self.cross)).sum()
        return max(self.residual_square + float(explained), 0.0)


class RidgeSystem:
    """The factored matrix of one problem and penalty: solves for any residuals."""

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
        self._factor, failures = torch.linalg.cholesky_ex(sums.gram + torch.diag_embed(penalty))
        self.is_solvable = not bool(failures.any())

    def change(self, cross: Tensor) -> Tensor:
        """Best change of the weights for residuals with these products, float64 [G, n, o]."""
        return torch.cholesky_solve(cross, self._factor)


@dataclass(frozen=True, slots=True)
class RidgeSolution:
    """The change of the weights [G, n, o], its penalty, and squared errors on held-out rows.

    Where no change helped there, it is zero and the penalty infinite.
    """

    change: Tensor
    ridge: float
    error_before: float
    error_after: float


def solve_ridge(
    fit: NormalEquations, held_out: NormalEquations, num_free: int = 0
) -> RidgeSolution:
    """Change the weights as far as held-out rows confirm that it helps.

    Minimises ``|rows @ change - residuals|^2 + ridge * s * |change|^2``. The penalty is the best
    on ``held_out``, of near ties the smallest; the solution then uses all rows.

    Args:
        fit: Sums that the candidates are solved from.
        held_out: Sums that choose among them.
        num_free: See ``RidgeSystem``.
    """
    before = held_out.residual_square
    best_error, best_ridge, lowest = before, math.inf, before
    rounding = ROUNDING * before
    for ridge in RIDGE_GRID:
        system = RidgeSystem(fit, ridge, num_free)
        if not system.is_solvable:
            break  # smaller penalties are no better conditioned
        error = held_out.squared_error(system.change(fit.cross))
        if error < best_error - rounding or (best_ridge < math.inf and error <= lowest + rounding):
            best_error, best_ridge, lowest = error, ridge, min(error, lowest)
        elif best_ridge < math.inf:
            break  # the error is unimodal in the penalty, but for noise
    if best_ridge == math.inf:
        return RidgeSolution(torch.zeros_like(fit.cross), math.inf, before, before)
    everything = fit.merged(held_out)
    change = RidgeSystem(everything, best_ridge, num_free).change(everything.cross)
    return RidgeSolution(change, best_ridge, before, best_error)
