from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.recovery.least_squares.normal_equations import NormalEquations, solve_ridge


def sums_over(rows: Tensor, residuals: Tensor) -> NormalEquations:
    sums = NormalEquations(rows.shape[0], rows.shape[2], residuals.shape[2])
    sums.add(rows, residuals)
    return sums


def random_problem(seed: int, num_rows: int = 400, groups: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(groups, num_rows, 5, generator=generator)
    truth = torch.randn(groups, 5, 3, generator=generator)
    noise = 0.1 * torch.randn(groups, num_rows, 3, generator=generator)
    return rows, rows @ truth + noise


def test_squared_error_is_that_of_the_rows_themselves() -> None:
    rows, residuals = random_problem(0, groups=2)
    change = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    expected = (rows.double() @ change - residuals.double()).square().sum()
    assert sums_over(rows, residuals).squared_error(change) == pytest.approx(float(expected))


def test_rows_added_in_parts_or_merged_give_the_same_sums_as_all_at_once() -> None:
    rows, residuals = random_problem(0, num_rows=10_000)
    whole = sums_over(rows, residuals)
    merged = sums_over(rows[:, :3000], residuals[:, :3000]).merged(
        sums_over(rows[:, 3000:], residuals[:, 3000:])
    )
    assert merged.num_rows == whole.num_rows == 10_000
    assert merged.residual_square == pytest.approx(whole.residual_square)
    torch.testing.assert_close(merged.gram, whole.gram, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(merged.cross, whole.cross, rtol=1e-5, atol=1e-2)


def test_solution_matches_numpy_least_squares_when_data_is_plentiful() -> None:
    rows, residuals = random_problem(3, num_rows=4000)
    found = solve_ridge(
        sums_over(rows[:, :3000], residuals[:, :3000]),
        sums_over(rows[:, 3000:], residuals[:, 3000:]),
    )
    expected, *_ = np.linalg.lstsq(rows[0].double().numpy(), residuals[0].double().numpy())
    np.testing.assert_allclose(found.change[0].numpy(), expected, atol=1e-2)
    assert found.error_after < 0.02 * found.error_before


def test_groups_are_solved_independently_with_one_shared_penalty() -> None:
    rows, residuals = random_problem(4, groups=3)
    together = solve_ridge(sums_over(rows, residuals), sums_over(rows, residuals))
    for group in range(3):
        gram = rows[group].double().T @ rows[group].double()
        penalty = together.ridge * gram.diagonal().mean() * torch.eye(5, dtype=torch.float64)
        # All rows were given twice, once to fit and once held out, so both sides double.
        expected = torch.linalg.solve(
            2 * (gram + penalty), 2 * rows[group].double().T @ residuals[group].double()
        )
        torch.testing.assert_close(together.change[group], expected, rtol=1e-4, atol=1e-5)


def test_nothing_changes_when_no_change_helps_on_held_out_rows() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(1, 8, 6, generator=generator)
    noise = torch.randn(1, 8, 2, generator=generator)
    fresh_rows = torch.randn(1, 5000, 6, generator=generator)
    # Opposite to what the few rows suggest, so that every change does harm.
    harm = -fresh_rows @ torch.linalg.lstsq(rows, noise).solution
    found = solve_ridge(sums_over(rows, noise), sums_over(fresh_rows, harm))
    assert math.isinf(found.ridge)
    assert torch.equal(found.change, torch.zeros(1, 6, 2, dtype=torch.float64))
    assert found.error_after == found.error_before


def test_held_out_error_never_rises() -> None:
    for seed in range(20):
        rows, residuals = random_problem(seed, num_rows=12)
        found = solve_ridge(
            sums_over(rows[:, :8], residuals[:, :8]), sums_over(rows[:, 8:], residuals[:, 8:])
        )
        assert found.error_after <= found.error_before


@pytest.mark.parametrize("defect", ["zero", "copy"])
def test_dead_or_copied_inputs_still_give_a_finite_change(defect: str) -> None:
    rows, residuals = random_problem(6)
    rows[:, :, 0] = 0 if defect == "zero" else rows[:, :, 1]
    found = solve_ridge(
        sums_over(rows[:, :300], residuals[:, :300]), sums_over(rows[:, 300:], residuals[:, 300:])
    )
    assert found.change.isfinite().all()
    assert found.error_after < found.error_before


def test_inputs_that_are_all_zero_change_only_the_bias() -> None:
    rows = torch.cat([torch.zeros(1, 100, 4), torch.ones(1, 100, 1)], dim=2)
    residuals = torch.full((1, 100, 2), 3.0)
    found = solve_ridge(sums_over(rows, residuals), sums_over(rows, residuals), num_free=1)
    torch.testing.assert_close(found.change[0, :4], torch.zeros(4, 2, dtype=torch.float64))
    torch.testing.assert_close(found.change[0, 4], torch.full((2,), 3.0, dtype=torch.float64))


def test_rounding_of_the_products_does_not_choose_the_penalty() -> None:
    """An exact answer leaves nothing that tells small penalties apart but the last digits."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(1, 600, 5, generator=generator)
    residuals = rows @ torch.randn(1, 5, 3, generator=generator)
    chosen = set()
    for seed in range(10):
        parts = [(rows[:, :400], residuals[:, :400]), (rows[:, 400:], residuals[:, 400:])]
        fit, held_out = (sums_over(*part) for part in parts)
        noise = torch.Generator().manual_seed(seed)
        for sums in (fit, held_out):
            for tensor in (sums.gram, sums.cross):
                tensor.mul_(1 + 1e-7 * torch.randn(tensor.shape, generator=noise).double())
        found = solve_ridge(fit, held_out)
        assert found.error_after <= found.error_before
        chosen.add(found.ridge)
    assert chosen == {1e-5}


def test_what_only_rounding_could_improve_is_left_as_it_is() -> None:
    rows, _ = random_problem(0)
    residuals = 1e-7 * torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(5))
    fit, held_out = sums_over(rows[:, :300], residuals[:, :300]), sums_over(rows, 0 * residuals)
    found = solve_ridge(fit, held_out)
    assert (found.ridge, found.error_after) == (math.inf, 0.0)
