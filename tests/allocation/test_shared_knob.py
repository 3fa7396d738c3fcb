"""Uniform and global allocation: what they take, and that they keep to every limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.multiples import nearest_kept
from fairdeploy.allocation.search import (
    critical_tolerances,
    depth_steps,
    depths_at,
    reachable_range,
    search,
)
from fairdeploy.allocation.shared_knob import knob_of_units, with_shared_knob
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import AllocationRule, Budget, GroupScores, MetricName
from tests.allocation.strategies import Problem, problems

RULES: tuple[AllocationRule, ...] = ("uniform", "global")
PLACES = st.floats(0.0, 1.0)


def group(name: str, u: list[float], **changes: Any) -> GroupScores:
    """Its R-Scores say the opposite of what U says, so that nothing here can follow them."""
    scores = np.array(u)
    return replace(GroupScores(name, scores, -scores + scores.max(), len(u) - 1), **changes)


def per_unit(*prices: float) -> CostModel:
    """Each unit of a group costs what ``prices`` says."""
    terms = tuple(CostTerm(price, ((0, ((index, 1),)),)) for index, price in enumerate(prices))
    return CostModel({"params": terms}, len(prices))


def plan(
    groups: list[GroupScores],
    rule: AllocationRule,
    percent: float,
    prices: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> tuple[float, dict[str, tuple[int, ...]]]:
    """The knob, and what goes."""
    shared = with_shared_knob(groups, rule)
    budget = Budget("params", "params", fraction=percent / 100)
    allocation = search(shared, per_unit(*prices[: len(groups)]).costs, [budget])
    return allocation.tolerance, dict(allocation.removed)


def test_uniform_takes_the_same_share_of_each_group_lowest_signal_first() -> None:
    small, large = group("small", [0.4, 0.1, 0.3, 0.2]), group("large", [8, 7, 6, 5, 4, 3, 2, 1])
    knob, removed = plan([small, large], "uniform", 50)
    assert knob == 0.5
    assert removed == {"small": (1, 3), "large": (4, 5, 6, 7)}


def test_uniform_gives_back_what_went_last() -> None:
    # A quarter of each is three units. At 84 % of twelve two are enough; of the two that went at
    # a quarter, the one of the first group comes back.
    small, large = group("small", [1, 2, 3, 4]), group("large", [1, 2, 3, 4, 5, 6, 7, 8])
    assert plan([small, large], "uniform", 75)[1] == {"small": (0,), "large": (0, 1)}
    assert plan([small, large], "uniform", 84)[1] == {"small": (), "large": (0, 1)}


def test_global_takes_what_is_below_one_threshold_over_each_group_s_mean() -> None:
    # Means 2 and 20: "even" is 0.5, 1.5, 0.5, 1.5 and "uneven" 0.05, 0.05, 0.1, 3.8.
    even, uneven = group("even", [1, 3, 1, 3]), group("uneven", [1, 1, 2, 76])
    knob, removed = plan([even, uneven], "global", 63)
    assert removed == {"even": (), "uneven": (0, 1, 2)}
    assert knob == pytest.approx(0.1)
    # Three of "uneven" may go; the next lowest are in "even".
    knob, removed = plan([even, uneven], "global", 40)
    assert removed == {"even": (0, 2), "uneven": (0, 1, 2)}
    assert knob == 0.5


def test_units_that_say_nothing_go_at_once_under_a_global_threshold() -> None:
    knob, removed = plan([group("dead", [0, 0, 0]), group("alive", [1, 2, 3])], "global", 70)
    assert knob == 0.0
    assert removed == {"dead": (0, 1), "alive": ()}


def test_what_is_given_back_does_not_depend_on_its_price() -> None:
    # Both lose a unit at 0.5, where one is enough; that of the first group comes back.
    first, second = group("first", [1, 3]), group("second", [2, 6])
    for prices in ((10.0, 1.0), (1.0, 10.0)):
        removed = plan([first, second], "global", 96, prices=prices)[1]
        assert removed == {"first": (), "second": (0,)}


def test_tod_leaves_the_groups_as_they_are() -> None:
    groups = (group("a", [1, 2], reluctance=0.5),)
    assert with_shared_knob(groups, "tod") == groups


def test_streams_have_no_tolerance_of_their_own_under_another_rule() -> None:
    groups = [group("stream", [1, 2, 3, 4], reluctance=0.5), group("inner", [1, 2, 3, 4])]
    assert plan(groups, "uniform", 75)[1] == {"stream": (0,), "inner": (0,)}


def test_each_unit_knows_when_it_goes() -> None:
    (shared,) = with_shared_knob([group("a", [0.4, 0.1, 0.3, 0.2])], "uniform")
    assert knob_of_units(shared).tolist() == [1.0, 0.25, 0.75, 0.5]


def under(problem: Problem, rule: AllocationRule) -> Problem:
    """The same problem under another rule."""
    return Problem(with_shared_knob(problem.groups, rule), problem.model)


METRICS: tuple[MetricName, ...] = ("params", "macs")


def reachable_budgets(problem: Problem, *places: float) -> list[Budget]:
    reachable = reachable_range(problem.groups, problem.model.costs)
    budgets = []
    for metric, place in zip(METRICS, places, strict=True):
        low, high = reachable[metric]
        budgets.append(Budget(metric, metric, absolute=low + place * (high - low)))
    return budgets


@given(problems(max_step=5), st.sampled_from(RULES))
def test_cost_never_rises_with_the_knob(problem: Problem, rule: AllocationRule) -> None:
    groups = under(problem, rule).groups
    steps = [depth_steps(group) for group in groups]
    rows = [(len(group.u), group.max_removed, group.step) for group in groups]
    sizes, most, widths = np.array(rows).T
    kept = np.stack(
        [
            nearest_kept(sizes - depths_at(steps, knob), sizes, most, widths)
            for knob in critical_tolerances(steps)
        ]
    )
    assert (np.diff(kept, axis=0) <= 0).all()
    for values in problem.model.costs(kept).values():
        assert (np.diff(values) <= 0).all()


@given(problems(max_step=5), st.sampled_from(RULES), PLACES, PLACES)
def test_limits_steps_and_budgets_hold_and_no_block_could_be_given_back(
    problem: Problem, rule: AllocationRule, params: float, macs: float
) -> None:
    problem = under(problem, rule)
    budgets = reachable_budgets(problem, params, macs)
    allocation = search(problem.groups, problem.model.costs, budgets)
    counts = {name: len(units) for name, units in allocation.removed.items()}

    def meets(removed: dict[str, int]) -> bool:
        cost = problem.model.cost(problem.kept(removed))
        return all(cost[budget.metric] <= budget.allowed(0.0) for budget in budgets)

    assert meets(counts)
    for item in problem.groups:
        count, size = counts[item.name], len(item.u)
        assert count <= item.max_removed
        assert count == 0 or (size - count) % item.step == 0
        assert count == 0 or not meets({**counts, item.name: max(0, count - item.step)})


@given(problems(max_step=5), st.sampled_from(RULES), PLACES, PLACES)
def test_the_units_of_a_group_with_the_lowest_signal_go(
    problem: Problem, rule: AllocationRule, params: float, macs: float
) -> None:
    problem = under(problem, rule)
    allocation = search(
        problem.groups, problem.model.costs, reachable_budgets(problem, params, macs)
    )
    for item in problem.groups:
        removed = allocation.removed[item.name]
        in_order = sorted(range(len(item.u)), key=lambda unit: (item.u[unit], unit))
        assert sorted(removed) == sorted(in_order[: len(removed)])


@given(problems(), PLACES)
def test_uniform_takes_whole_units_of_the_share_where_nothing_limits(
    problem: Problem, place: float
) -> None:
    free = [replace(item, max_removed=len(item.u) - 1) for item in problem.groups]
    problem = under(Problem(tuple(free), problem.model), "uniform")
    (budget, _) = reachable_budgets(problem, place, place)
    allocation = search(problem.groups, problem.model.costs, [budget])
    share = allocation.tolerance
    for item in problem.groups:
        depth = allocation.prefix_lengths[item.name]
        size = len(item.u)
        assert depth == min(int(share * size + 1e-9), size - 1)
        assert len(allocation.removed[item.name]) <= depth
