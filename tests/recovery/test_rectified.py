from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairdeploy.recovery.least_squares.fit import refine_cut
from fairdeploy.recovery.least_squares.normal_equations import NormalEquations, RidgeSystem
from fairdeploy.recovery.least_squares.sample_blocks import SampleBlock


def summed(block: SampleBlock) -> NormalEquations:
    sums = NormalEquations(1, block.rows.shape[2], block.targets.shape[2])
    sums.add(block.rows, block.residuals)
    return sums


@pytest.mark.parametrize("limits", [(0.0, math.inf), (0.0, 1.0), (-math.inf, 0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_refining_lowers_the_penalised_error_between_the_limits(
    seed: int, limits: tuple[float, float]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 300, 6, generator=generator).relu()
    targets = torch.randn(1, 300, 4, generator=generator) + rows[..., :4] - rows[..., 1:5]
    old = torch.randn(1, 6, 4, generator=generator)
    block = SampleBlock(rows, targets, rows @ old)
    sums, ridge = summed(block), 0.1
    system = RidgeSystem(sums, ridge, 0)
    start = system.change(sums.cross)
    refined = refine_cut(system, [block], start, limits)

    def objective(change: Tensor) -> float:
        outputs = rows.double() @ (old.double() + change)
        error = (outputs.clamp(*limits) - targets.double().clamp(*limits)).square().sum()
        scale = rows.double().square().sum(dim=1).mean()
        return float(error + ridge * scale * change.square().sum())

    assert objective(refined) < objective(start)


def test_nothing_changes_where_every_target_is_positive_and_met() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, 200, 3, generator=generator)
    targets = rows @ torch.rand(1, 3, 2, generator=generator)
    block = SampleBlock(rows, targets, targets.clone())
    nothing = torch.zeros(1, 3, 2, dtype=torch.float64)
    system = RidgeSystem(summed(block), 1e-3, 0)
    assert torch.equal(refine_cut(system, [block], nothing, (0.0, math.inf)), nothing)
