from __future__ import annotations

import pytest
import torch

from fairdeploy.recovery.normal_equations import NormalEquations, RidgeSystem
from fairdeploy.recovery.rectified import refine_rectified


@pytest.mark.parametrize("seed", range(10))
def test_refining_never_raises_the_penalised_error_after_the_relu(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 300, 6, generator=generator).relu()
    targets = torch.randn(1, 300, 4, generator=generator) + rows[..., :4] - rows[..., 1:5]
    old = torch.randn(1, 6, 4, generator=generator).double()
    sums = NormalEquations(1, 6, 4)
    sums.add(rows, targets)
    ridge = 0.1
    start = RidgeSystem(sums, ridge, 0).weights(sums.cross, old)
    refined = refine_rectified(sums, [(rows, targets)], old, start, ridge, 0)

    def objective(weights: torch.Tensor) -> float:
        error = ((rows.double() @ weights).relu() - targets.double().relu()).square().sum()
        scale = rows.double().square().sum(dim=1).mean()
        return float(error + ridge * scale * (weights - old).square().sum())

    assert objective(refined) < objective(start)


def test_nothing_changes_where_every_target_is_positive_and_met() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, 200, 3, generator=generator)
    truth = torch.rand(1, 3, 2, generator=generator).double()
    targets = rows @ truth.float()
    sums = NormalEquations(1, 3, 2)
    sums.add(rows, targets)
    refined = refine_rectified(sums, [(rows, targets)], truth, truth, 1e-3, 0)
    torch.testing.assert_close(refined, truth, rtol=1e-4, atol=1e-5)
