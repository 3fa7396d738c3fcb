from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.search import critical_tolerances, depth_steps, depths_at
from fairdeploy.allocation.tolerance import deepest_prefix, removal_order, tod_curve
from fairdeploy.records import GroupScores
from tests.allocation.strategies import group_scores


def slow_tod(u: np.ndarray, r: np.ndarray, k: int) -> float:
    """The definition, with sets."""
    numbers = range(len(u))
    prefix = set(sorted(numbers, key=lambda unit: (u[unit], unit))[:k])
    tail = set(sorted(numbers, key=lambda unit: (-r[unit], unit))[:k])
    return len(prefix & tail) / k


def test_curve_of_a_worked_example_is_right() -> None:
    u = np.array([0.1, 0.2, 0.3, 0.4])
    r = np.array([9.0, 1.0, 2.0, 8.0])
    # Prefixes {0} {0,1} {0,1,2}; tails {0} {0,3} {0,3,2}.
    np.testing.assert_allclose(tod_curve(u, r), [1, 1 / 2, 2 / 3, 1])


def test_curve_is_zero_up_to_half_when_the_two_rankings_agree() -> None:
    scores = np.arange(10.0)
    np.testing.assert_array_equal(tod_curve(scores, scores)[:5], np.zeros(5))
    assert tod_curve(scores, scores)[9] == 1.0


@given(group_scores())
def test_curve_equals_the_set_definition_at_every_depth(group: GroupScores) -> None:
    expected = [slow_tod(group.u, group.r, k) for k in range(1, len(group.u) + 1)]
    np.testing.assert_array_equal(tod_curve(group.u, group.r), expected)


def test_removal_order_breaks_ties_by_index() -> None:
    assert removal_order(np.array([2.0, 1.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("alpha", "max_removed", "depth"),
    [(0.0, 4, 0), (0.5, 4, 2), (0.7, 4, 3), (0.7, 2, 2), (1.0, 4, 4), (1.0, 0, 0)],
)
def test_deepest_prefix_skips_a_hill_in_the_curve(
    alpha: float, max_removed: int, depth: int
) -> None:
    curve = np.array([1, 1 / 2, 2 / 3, 1])
    assert deepest_prefix(curve, alpha, max_removed) == depth


@given(group_scores(), st.floats(0, 1))
def test_step_function_gives_the_deepest_prefix_at_any_tolerance(
    group: GroupScores, alpha: float
) -> None:
    curve = tod_curve(group.u, group.r)
    steps = depth_steps(group)
    for tolerance in (alpha, *curve):
        expected = deepest_prefix(curve, float(tolerance), group.max_removed)
        assert steps.depth_at(float(tolerance)) == expected


@given(st.lists(group_scores(), min_size=1, max_size=4))
def test_no_depth_ever_falls_when_the_tolerance_rises(groups: list[GroupScores]) -> None:
    steps = [depth_steps(group) for group in groups]
    depths = np.stack([depths_at(steps, t) for t in critical_tolerances(steps)])
    assert (np.diff(depths, axis=0) >= 0).all()


@given(group_scores())
def test_tolerance_one_removes_all_that_may_go(group: GroupScores) -> None:
    assert depths_at([depth_steps(group)], 1.0).tolist() == [group.max_removed]


def test_reluctant_group_stays_whole_up_to_its_threshold_and_then_catches_up() -> None:
    u = np.arange(8.0)
    plain = GroupScores("a", u, u[::-1].copy(), max_removed=7)
    reluctant = replace(plain, reluctance=0.5)
    for tolerance in np.linspace(0, 1, 21):
        own = max(0.0, (tolerance - 0.5) / 0.5)
        expected = depth_steps(plain).depth_at(own + 1e-12) if tolerance >= 0.5 else 0
        assert depth_steps(reluctant).depth_at(float(tolerance) + 1e-12) == expected
    assert depth_steps(reluctant).depth_at(1.0) == 7
