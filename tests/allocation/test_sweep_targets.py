"""Where a sweep measures: evenly, within reach, and at percentages that can be typed again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.sweep_targets import capped_targets, shares_between, spread_targets
from fairdeploy.errors import BudgetError


def test_targets_are_spread_evenly_in_whole_per_cents() -> None:
    targets = spread_targets("params", smallest=20, original=1000, num_points=8)
    texts = [target.budget.text for target in targets]
    # 2 + 12.25 k, rounded
    assert texts == [
        "params=88%", "params=76%", "params=63%", "params=51%", "params=39%", "params=26%",
        "params=14%", "params=2%",
    ]  # fmt: skip
    assert [target.budget.fraction for target in targets][:2] == [0.88, 0.76]


def test_targets_of_a_narrow_range_have_the_digits_that_tell_them_apart() -> None:
    targets = spread_targets("macs", smallest=990, original=1000, num_points=4)
    assert [target.budget.text for target in targets] == [
        "macs=99.8%", "macs=99.5%", "macs=99.2%", "macs=99%",
    ]  # fmt: skip
    (*_, smallest) = spread_targets("macs", smallest=99_996, original=100_000, num_points=2)
    assert smallest.budget.text == "macs=99.996%"


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(2, 30))
def test_every_target_is_within_reach_and_the_last_is_next_to_the_smallest(
    one: int, other: int, num_points: int
) -> None:
    smallest, original = sorted((one, other))
    if smallest == original:
        return
    targets = spread_targets("params", smallest, original, num_points)
    allowed = [target.budget.allowed(original) for target in targets]
    assert 1 <= len(targets) <= num_points
    assert allowed == sorted(set(allowed), reverse=True)
    assert all(smallest <= limit < original for limit in allowed)
    assert allowed[-1] - smallest <= 0.001 * original + 1e-6


def test_shares_out_of_reach_become_one_target_at_the_smallest() -> None:
    targets = capped_targets("size", smallest=200, original=1000, percents=(70.0, 10.0, 5.0))
    assert [(target.budget.text, target.asked_percents) for target in targets] == [
        ("size=70%", ()), ("size=20%", (10.0, 5.0)),
    ]  # fmt: skip


def test_the_smallest_is_no_second_target_where_it_was_asked_for_as_well() -> None:
    targets = capped_targets("params", smallest=200, original=1000, percents=(20.0, 5.0))
    assert [(target.budget.text, target.asked_percents) for target in targets] == [
        ("params=20%", (5.0,))
    ]


def test_shares_within_reach_are_left_alone() -> None:
    targets = capped_targets("params", smallest=200, original=1000, percents=(70.5, 20.0))
    assert [target.budget.text for target in targets] == ["params=70.5%", "params=20%"]
    assert all(target.asked_percents == () for target in targets)


def test_network_that_nothing_can_go_from_cannot_be_swept() -> None:
    with pytest.raises(BudgetError, match=r"nothing to sweep: every allowed plan keeps 100\.0%"):
        spread_targets("params", smallest=10, original=10, num_points=4)
    with pytest.raises(BudgetError, match="nothing to sweep"):
        capped_targets("params", smallest=10, original=10, percents=(50.0,))


def test_a_closer_look_lies_between_neighbours_that_are_far_enough_apart() -> None:
    assert shares_between([0.5, 0.3, 0.29]) == (45.0, 40.0, 35.0)
    assert shares_between([0.249, 0.128, 0.1]) == (22.0, 19.0, 16.0, 12.1, 11.4, 10.7)
    assert shares_between([0.5]) == ()
