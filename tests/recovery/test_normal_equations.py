from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.recovery.normal_equations import NormalEquations, solve_ridge


def sums_over(rows: Tensor, targets: Tensor) -> NormalEquations:
    sums = NormalEquations(rows.shape[0], rows.shape[2], targets.shape[2])
    sums.add(rows, targets)
    return sums


def random_problem(seed: int, num_rows: int = 400, groups: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(groups, num_rows, 5, generator=generator)
    truth = torch.randn(groups, 5, 3, generator=generator)
    noise = 0.1 * torch.randn(groups, num_rows, 3, generator=generator)
    return rows, rows @ truth + noise


def test_squared_error_is_that_of_the_rows_themselves() -> None:
    rows, targets = random_problem(0, groups=2)
    weights = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    expected = (rows.double() @ weights - targets.double()).square().sum(dim=1)
    torch.testing.assert_close(
        sums_over(rows, targets).squared_error(weights), expected, rtol=1e-5, atol=1e-4
    )


def test_target_variation_is_around_the_mean() -> None:
    targets = torch.tensor([[[1.0], [3.0], [8.0]]])
    # Mean 4: 9 + 1 + 16.
    assert sums_over(torch.zeros(1, 3, 2), targets).target_variation() == pytest.approx(26.0)


def test_rows_added_in_parts_or_merged_give_the_same_sums_as_all_at_once() -> None:
    rows, targets = random_problem(0, num_rows=10_000)
    whole = sums_over(rows, targets)
    merged = sums_over(rows[:, :3000], targets[:, :3000]).merged(
        sums_over(rows[:, 3000:], targets[:, 3000:])
    )
    assert merged.num_rows == whole.num_rows == 10_000
    torch.testing.assert_close(merged.gram, whole.gram, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(merged.cross, whole.cross, rtol=1e-5, atol=1e-2)


def test_solution_matches_numpy_least_squares_when_data_is_plentiful() -> None:
    rows, targets = random_problem(3, num_rows=4000)
    parts = sums_over(rows[:, :3000], targets[:, :3000]), sums_over(
        rows[:, 3000:], targets[:, 3000:]
    )
    found = solve_ridge(*parts, torch.zeros(1, 5, 3, dtype=torch.float64))
    expected, *_ = np.linalg.lstsq(rows[0].double().numpy(), targets[0].double().numpy())
    np.testing.assert_allclose(found.weights[0].numpy(), expected, atol=1e-2)
    assert found.error_after < 0.01 < found.error_before


def test_groups_are_solved_independently_with_one_shared_penalty() -> None:
    rows, targets = random_problem(4, groups=3)
    old = torch.zeros(3, 5, 3, dtype=torch.float64)
    together = solve_ridge(sums_over(rows, targets), sums_over(rows, targets), old)
    for group in range(3):
        gram = rows[group].double().T @ rows[group].double()
        penalty = together.ridge * gram.diagonal().mean() * torch.eye(5, dtype=torch.float64)
        # All rows were given twice, once to fit and once held out, so both sides double.
        expected = torch.linalg.solve(
            2 * (gram + penalty), 2 * rows[group].double().T @ targets[group].double()
        )
        torch.testing.assert_close(together.weights[group], expected, rtol=1e-4, atol=1e-5)


def test_old_weights_stay_when_no_change_helps_on_held_out_rows() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(1, 8, 6, generator=generator)
    noise = torch.randn(1, 8, 2, generator=generator)
    fresh_rows = torch.randn(1, 5000, 6, generator=generator)
    old = torch.randn(1, 6, 2, generator=generator).double()
    exact = fresh_rows @ old.float()
    found = solve_ridge(sums_over(rows, noise), sums_over(fresh_rows, exact), old)
    assert math.isinf(found.ridge)
    assert torch.equal(found.weights, old)
    assert found.error_after == found.error_before


def test_held_out_error_never_rises() -> None:
    for seed in range(20):
        rows, targets = random_problem(seed, num_rows=12)
        old = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(seed)).double()
        found = solve_ridge(
            sums_over(rows[:, :8], targets[:, :8]), sums_over(rows[:, 8:], targets[:, 8:]), old
        )
        assert found.error_after <= found.error_before


@pytest.mark.parametrize("defect", ["zero", "copy"])
def test_dead_or_copied_inputs_still_give_finite_weights(defect: str) -> None:
    rows, targets = random_problem(6)
    rows[:, :, 0] = 0 if defect == "zero" else rows[:, :, 1]
    old = torch.zeros(1, 5, 3, dtype=torch.float64)
    found = solve_ridge(
        sums_over(rows[:, :300], targets[:, :300]), sums_over(rows[:, 300:], targets[:, 300:]), old
    )
    assert found.weights.isfinite().all()
    assert found.error_after < found.error_before


def test_inputs_that_are_all_zero_change_only_the_bias() -> None:
    rows = torch.cat([torch.zeros(1, 100, 4), torch.ones(1, 100, 1)], dim=2)
    targets = torch.full((1, 100, 2), 3.0)
    old = torch.zeros(1, 5, 2, dtype=torch.float64)
    found = solve_ridge(sums_over(rows, targets), sums_over(rows, targets), old, num_free=1)
    torch.testing.assert_close(found.weights[0, :4], torch.zeros(4, 2, dtype=torch.float64))
    torch.testing.assert_close(found.weights[0, 4], torch.full((2,), 3.0, dtype=torch.float64))
