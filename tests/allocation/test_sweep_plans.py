"""The plans of a sweep: each once, falling in cost, with what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.sweep_plans import plan_points, target_notes
from fairdeploy.allocation.sweep_targets import capped_targets
from fairdeploy.records import GroupScores, SweepTarget

PRICES = np.array([1.0, 10.0])


def cost_of(kept: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
    """A unit of the first group costs 1 and one of the second 10: 44 in all."""
    return {"params": kept @ PRICES}


def groups(**changes: object) -> tuple[GroupScores, GroupScores]:
    random = np.random.default_rng(0)
    first = GroupScores("first", random.random(4), random.random(4), 3)
    places = np.arange(8).reshape(4, 2)
    return first, GroupScores("second", random.random(4), random.random(4), 3, places=places)


def targets(*percents: float) -> tuple[SweepTarget, ...]:
    return capped_targets("params", smallest=11.0, original=44.0, percents=percents)


def test_points_fall_in_cost_and_meet_their_budgets() -> None:
    points = plan_points(groups(), cost_of, targets(90, 70, 50, 25))
    costs = [point.allocation.costs["params"] for point in points]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(points) == 4
    for point, share in zip(points, (0.9, 0.7, 0.5, 0.25), strict=True):
        assert point.allocation.costs["params"] <= share * 44
    assert costs[-1] == 11.0
    assert [point.name for point in points] == ["params-90", "params-70", "params-50", "params-25"]


def test_budgets_with_the_same_plan_are_one_point() -> None:
    # They allow 21.12, 21.08 and 21.03; costs are whole numbers, so all three mean 21.
    points = plan_points(groups(), cost_of, targets(48, 47.9, 47.8))
    assert [point.budget.text for point in points] == ["params=48%"]
    assert points[0].also_for == ("params=47.9%", "params=47.8%")
    notes = list(target_notes(points, targets(48, 47.9, 47.8)))
    assert notes == ["params=48%, params=47.9%, params=47.8% give the same plan, measured once"]


def test_share_of_r_scores_and_number_of_units_are_those_that_go() -> None:
    first, second = groups()
    (point,) = plan_points((first, second), cost_of, targets(50))
    lost = sum(
        group.r[unit] for group in (first, second) for unit in point.allocation.removed[group.name]
    )
    assert lost > 0
    np.testing.assert_allclose(point.r_mass_share, lost / (first.r.sum() + second.r.sum()))
    gone = {name: len(units) for name, units in point.allocation.removed.items()}
    assert gone["second"] > 0
    # Each of the second group's stands for two units.
    assert point.num_removed == gone["first"] + 2 * gone["second"]


def test_shares_out_of_reach_are_told() -> None:
    asked = targets(50, 10, 5)
    notes = list(target_notes(plan_points(groups(), cost_of, asked), asked))
    assert notes == [
        "10%, 5% of the params is out of reach; measured instead at the smallest allowed plan, "
        "params=25%"
    ]
