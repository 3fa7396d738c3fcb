"""The sampled rows of one layer with the outputs that it should have and has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairdeploy.recovery.least_squares.normal_equations import BLOCK_ROWS, NormalEquations


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Some rows of a layer's problem, float32, with the outputs wanted and present."""

    rows: Tensor
    """Shape [G, M, n]."""
    targets: Tensor
    """Shape [G, M, o]."""
    present: Tensor
    """``rows`` times the weights that the layer has so far, [G, M, o]."""

    @property
    def residuals(self) -> Tensor:
        """How the outputs should change, [G, M, o]."""
        return self.targets - self.present


def joined_blocks(blocks: Sequence[SampleBlock]) -> list[SampleBlock]:
    """The same rows in fewer blocks: adding a product to the sums costs more than a few rows."""
    joined: list[SampleBlock] = []
    waiting: list[SampleBlock] = []
    for block in blocks:
        waiting.append(block)
        if sum(b.rows.shape[1] for b in waiting) >= BLOCK_ROWS:
            joined.append(_joined(waiting))
            waiting = []
    return [*joined, _joined(waiting)] if waiting else joined


def _joined(blocks: Sequence[SampleBlock]) -> SampleBlock:
    if len(blocks) == 1:
        return blocks[0]
    return SampleBlock(
        torch.cat([b.rows for b in blocks], dim=1),
        torch.cat([b.targets for b in blocks], dim=1),
        torch.cat([b.present for b in blocks], dim=1),
    )


def summed(blocks: Sequence[SampleBlock], old_weights: Tensor) -> NormalEquations:
    """Normal equations over all rows; ``old_weights`` [G, n, o] gives the shape."""
    sums = NormalEquations(*old_weights.shape)
    for block in blocks:
        sums.add(block.rows, block.residuals)
    return sums


def energy_and_variation(blocks: Sequence[SampleBlock]) -> tuple[float, float]:
    """Sums of squares of the targets, and of their distances to the outputs' means."""
    targets = torch.cat([block.targets for block in blocks], dim=1)
    around_mean = targets - targets.mean(dim=1, keepdim=True)
    variation = float(around_mean.square().sum(dtype=torch.float64))
    return float(targets.square().sum(dtype=torch.float64)), max(variation, 1e-30)
