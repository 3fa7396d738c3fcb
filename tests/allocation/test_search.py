from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.allocation.tolerance import deepest_prefix, tod_curve
from fairdeploy.allocation.tolerance_steps import critical_tolerances, depth_steps, depths_at
from fairdeploy.errors import BudgetError
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import Allocation, Budget, GroupScores
from tests.allocation.strategies import Problem, problems

FRACTIONS = st.floats(0.05, 0.95)


def one_group(u: list[float], r: list[float], max_removed: int) -> tuple[GroupScores, ...]:
    return (GroupScores("conv", np.array(u), np.array(r), max_removed),)


def proportional(num_groups: int) -> CostModel:
    """Each unit of each group costs 10."""
    terms = tuple(CostTerm(10.0, ((0, ((index, 1),)),)) for index in range(num_groups))
    return CostModel({"params": terms}, num_groups)


def num_removed(allocation: Allocation) -> dict[str, int]:
    return {name: len(units) for name, units in allocation.removed.items()}


def test_units_of_low_utilisation_go_when_nobody_protects_them() -> None:
    groups = one_group([0.4, 0.1, 0.3, 0.2], [4.0, 1.0, 3.0, 2.0], max_removed=3)
    allocation = search(
        groups, proportional(1).costs, [Budget("params", "params=50%", fraction=0.5)]
    )
    assert allocation.removed == {"conv": (1, 3)}
    assert allocation.tolerance == 0.0
    assert allocation.prefix_lengths == {"conv": 2}
    assert allocation.costs == {"params": 20.0}


def test_top_up_returns_the_unit_that_the_loss_misses_most() -> None:
    # ToD is 0 up to depth 2 (units 0, 1), but one unit's removal is enough.
    groups = one_group([0.1, 0.2, 0.3, 0.4], [2.0, 1.0, 3.0, 4.0], max_removed=3)
    allocation = search(
        groups, proportional(1).costs, [Budget("params", "params=75%", fraction=0.75)]
    )
    assert allocation.prefix_lengths == {"conv": 2}
    assert allocation.removed == {"conv": (1,)}


def test_top_up_prefers_loss_per_unit_of_cost_to_loss() -> None:
    # Group "wide": each unit costs 40 and is worth 3; group "narrow": 10 and 1.
    groups = (
        GroupScores("wide", np.array([0.0, 1.0]), np.array([3.0, 9.0]), 1),
        GroupScores("narrow", np.array([0.0, 1.0]), np.array([1.0, 9.0]), 1),
    )
    terms = (CostTerm(40.0, ((0, ((0, 1),)),)), CostTerm(10.0, ((0, ((1, 1),)),)))
    model = CostModel({"params": terms}, 2)
    # 100 in all, 50 at tolerance 0; at 90 either fits, but not both.
    allocation = search(groups, model.costs, [Budget("params", "params=90", absolute=90.0)])
    assert allocation.removed == {"wide": (0,), "narrow": ()}


def test_network_that_meets_the_budget_is_left_alone() -> None:
    groups = one_group([0.1, 0.2], [1.0, 2.0], max_removed=1)
    allocation = search(
        groups, proportional(1).costs, [Budget("params", "params=1M", absolute=1e6)]
    )
    assert allocation.removed == {"conv": ()}
    assert allocation.tolerance == 0.0


def test_unreachable_budget_is_refused_with_both_numbers() -> None:
    groups = one_group([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0], max_removed=3)
    terms = {"params": (CostTerm(1e6, ((0, ((0, 1),)),)),)}
    with pytest.raises(BudgetError) as caught:
        search(groups, CostModel(terms, 1).costs, [Budget("params", "params=20%", fraction=0.2)])
    assert str(caught.value).startswith(
        "cannot reach params=20%: the smallest allowed plan keeps 25.0% "
        "(1.00 M of 4.00 M parameters); raise the budget"
    )


def test_unreachable_budget_is_refused_before_any_score_is_read() -> None:
    unread = np.full(4, np.nan)
    groups = (GroupScores("conv", unread, unread, 0),)
    with pytest.raises(BudgetError, match=r"keeps 100\.0% \(40 of 40 parameters\)"):
        search(groups, proportional(1).costs, [Budget("params", "params=90%", fraction=0.9)])


def test_reachable_range_spans_smallest_plan_to_original() -> None:
    groups = one_group([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0], max_removed=3)
    assert reachable_range(groups, proportional(1).costs) == {"params": (10.0, 40.0)}


@given(problems())
def test_cost_never_rises_when_tolerance_rises(problem: Problem) -> None:
    steps = [depth_steps(group) for group in problem.groups]
    sizes = problem.kept({group.name: 0 for group in problem.groups})
    kept = np.stack([sizes - depths_at(steps, alpha) for alpha in critical_tolerances(steps)])
    for values in problem.model.costs(kept).values():
        assert (np.diff(values) <= 0).all()


def _reachable_budgets(problem: Problem, params: float, macs: float) -> list[Budget]:
    """Budgets at the given places between the smallest plan and the original."""
    reachable = reachable_range(problem.groups, problem.model.costs)
    budgets = []
    for metric, place in (("params", params), ("macs", macs)):
        low, high = reachable[metric]
        budgets.append(Budget(metric, metric, absolute=low + place * (high - low)))  # type: ignore[arg-type]
    return budgets


@given(problems(max_step=4), FRACTIONS, FRACTIONS)
def test_result_meets_the_budgets_and_no_removed_step_could_be_given_back(
    problem: Problem, params: float, macs: float
) -> None:
    budgets = _reachable_budgets(problem, params, macs)
    allocation = search(problem.groups, problem.model.costs, budgets)
    counts = num_removed(allocation)

    def meets(removed: dict[str, int]) -> bool:
        cost = problem.model.cost(problem.kept(removed))
        return all(cost[budget.metric] <= budget.allowed(0.0) for budget in budgets)

    assert meets(counts)
    for group in problem.groups:
        count = counts[group.name]
        if count:
            assert not meets({**counts, group.name: max(0, count - group.step)})


@given(problems(max_step=4), FRACTIONS, FRACTIONS)
def test_what_a_group_keeps_is_a_multiple_of_its_step_or_everything(
    problem: Problem, params: float, macs: float
) -> None:
    allocation = search(
        problem.groups, problem.model.costs, _reachable_budgets(problem, params, macs)
    )
    for group in problem.groups:
        kept = len(group.u) - len(allocation.removed[group.name])
        assert kept == len(group.u) or kept % group.step == 0
        assert kept >= 1


@given(problems(), FRACTIONS, FRACTIONS)
def test_tolerance_is_the_smallest_that_meets_the_budgets(
    problem: Problem, params: float, macs: float
) -> None:
    budgets = _reachable_budgets(problem, params, macs)
    allocation = search(problem.groups, problem.model.costs, budgets)
    assume(allocation.tolerance > 0)

    def depths(alpha: float) -> dict[str, int]:
        return {
            group.name: deepest_prefix(tod_curve(group.u, group.r), alpha, group.max_removed)
            for group in problem.groups
        }

    def meets(alpha: float) -> bool:
        cost = problem.model.cost(problem.kept(depths(alpha)))
        return all(cost[budget.metric] <= budget.allowed(0.0) for budget in budgets)

    assert allocation.prefix_lengths == depths(allocation.tolerance)
    assert meets(allocation.tolerance)
    assert not meets(float(np.nextafter(allocation.tolerance, 0)))


@given(problems(max_step=3), FRACTIONS, FRACTIONS)
def test_removed_units_are_a_part_of_the_prefix_and_within_the_limit(
    problem: Problem, params: float, macs: float
) -> None:
    allocation = search(
        problem.groups, problem.model.costs, _reachable_budgets(problem, params, macs)
    )
    for group in problem.groups:
        depth = allocation.prefix_lengths[group.name]
        prefix = sorted(range(len(group.u)), key=lambda unit: (group.u[unit], unit))[:depth]
        assert depth <= group.max_removed
        assert set(allocation.removed[group.name]) <= set(prefix)


def test_last_block_makes_a_group_whole_though_it_is_smaller() -> None:
    # Ten units in steps of four: 4, 8 or 10 may stay.
    scores = np.arange(10.0)
    groups = (GroupScores("conv", scores, scores, max_removed=9, step=4),)
    kept = {}
    for percent in (45, 85, 99):
        budget = Budget("params", "params", fraction=percent / 100)
        kept[percent] = 10 - len(search(groups, proportional(1).costs, [budget]).removed["conv"])
    assert kept == {45: 4, 85: 8, 99: 8}


def test_block_that_returns_holds_the_units_that_the_loss_misses_most() -> None:
    # Tolerance 0 takes units 0 to 3; the budget leaves room for one pair more.
    u, r = np.arange(8.0), np.array([1.0, 3.0, 1.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    groups = (GroupScores("conv", u, r, max_removed=7, step=2),)
    allocation = search(groups, proportional(1).costs, [Budget("params", "p", fraction=0.75)])
    assert allocation.prefix_lengths == {"conv": 4}
    assert allocation.removed == {"conv": (0, 2)}


@given(problems(max_step=3), FRACTIONS, FRACTIONS)
def test_same_scores_give_the_same_allocation(problem: Problem, params: float, macs: float) -> None:
    budgets = _reachable_budgets(problem, params, macs)
    first, second = (search(problem.groups, problem.model.costs, budgets) for _ in range(2))
    assert first == second
    assert list(first.removed) == list(second.removed)


def test_thirty_thousand_units_in_three_hundred_groups_take_about_a_second() -> None:
    random = np.random.default_rng(0)
    groups = tuple(
        GroupScores(f"group{index}", random.random(100), random.random(100), 99)
        for index in range(300)
    )
    chain = tuple(
        CostTerm(9.0, ((0, ((index, 1),)), (0, ((index + 1, 1),)))) for index in range(299)
    )
    model = CostModel({"params": chain, "macs": chain, "size": chain}, 300)
    start = time.process_time()
    allocation = search(groups, model.costs, [Budget("params", "params=40%", fraction=0.4)])
    seconds = time.process_time() - start
    original = model.cost(np.full(300, 100))["params"]
    assert 0.399 < allocation.costs["params"] / original <= 0.4
    # A quarter of a second of processor time where nothing else runs.
    assert seconds < 2
