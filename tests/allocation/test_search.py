from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import (
    check_reachable,
    critical_tolerances,
    depth_steps,
    depths_at,
    reachable_range,
    search,
)
from fairdeploy.allocation.tolerance import deepest_prefix, tod_curve
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


@given(problems(max_step=5))
def test_cost_never_rises_when_tolerance_rises(problem: Problem) -> None:
    steps = [depth_steps(group) for group in problem.groups]
    kept = np.stack(
        [_rounded(problem, depths_at(steps, alpha)) for alpha in critical_tolerances(steps)]
    )
    for values in problem.model.costs(kept).values():
        assert (np.diff(values) <= 0).all()


def _rounded(problem: Problem, depths: np.ndarray) -> list[int]:
    """The feasible count nearest to what each group keeps, found by trying all."""
    counts = []
    for group, depth in zip(problem.groups, depths.tolist(), strict=True):
        size = len(group.u)
        feasible = [
            kept
            for kept in range(size - group.max_removed, size + 1)
            if kept == size or kept % group.step == 0
        ]
        counts.append(min(feasible, key=lambda kept: (abs(kept - (size - depth)), -kept)))
    return counts


@given(problems(max_step=5), FRACTIONS, FRACTIONS)
def test_every_group_keeps_at_least_the_multiple_nearest_to_what_the_tolerance_asked(
    problem: Problem, params: float, macs: float
) -> None:
    allocation = search(
        problem.groups, problem.model.costs, _reachable_budgets(problem, params, macs)
    )
    asked = np.array([allocation.prefix_lengths[group.name] for group in problem.groups])
    kept = problem.kept(num_removed(allocation))
    if asked.any():
        assert (kept >= _rounded(problem, asked)).all()
    for group, count in zip(problem.groups, kept.tolist(), strict=True):
        assert len(group.u) - count <= group.max_removed


@pytest.mark.parametrize(("num_useless", "kept"), [(28, 32), (20, 48)])
def test_multiple_nearest_to_what_the_tolerance_asked_may_lie_below_or_above(
    num_useless: int, kept: int
) -> None:
    # Tolerance 0 takes the useless units of 64, the first of the others is the most protected.
    u = np.arange(64.0)
    r = np.where(u < num_useless, 0.0, 200.0 - u)
    groups = (GroupScores("conv", u, r, max_removed=63, step=16),)
    budget = Budget("params", "params", absolute=10.0 * kept)
    allocation = search(groups, proportional(1).costs, [budget])
    assert allocation.tolerance == 0.0
    assert allocation.prefix_lengths == {"conv": num_useless}
    assert num_removed(allocation) == {"conv": 64 - kept}


def test_unreachable_budget_names_the_option_that_limits_most() -> None:
    unread = np.zeros(10)

    def capped(most: int) -> tuple[GroupScores, ...]:
        return (GroupScores("conv", unread, unread, most),)

    budget = [Budget("params", "params=20%", fraction=0.2)]
    relaxed = {"--max-prune 0.3": capped(6), "--min-units 7": capped(4), "both": capped(9)}
    with pytest.raises(BudgetError) as caught:
        check_reachable(capped(3), proportional(1).costs, budget, relaxed)
    assert str(caught.value).startswith(
        "cannot reach params=20%: the smallest allowed plan keeps 70.0% (70 of 100 parameters); "
        "--max-prune 0.3 limits most (without it: 40.0%); raise the budget"
    )


def test_options_that_limit_only_together_are_named_together() -> None:
    unread = np.zeros(10)
    same = (GroupScores("conv", unread, unread, 3),)
    relaxed = {
        "--exclude a": same,
        "--max-prune 0.3": same,
        "--exclude a and --max-prune 0.3": (GroupScores("conv", unread, unread, 9),),
    }
    budget = [Budget("params", "params=20%", fraction=0.2)]
    with pytest.raises(BudgetError) as caught:
        check_reachable(same, proportional(1).costs, budget, relaxed)
    assert "--exclude a and --max-prune 0.3 together limit most (without them: 10.0%)" in str(
        caught.value
    )


def test_option_that_limits_nothing_is_not_blamed() -> None:
    unread = np.zeros(10)
    same = (GroupScores("conv", unread, unread, 9),)
    budget = [Budget("params", "params=1%", fraction=0.01)]
    with pytest.raises(BudgetError, match=r"10\.0% \(10 of 100 parameters\); raise the budget"):
        check_reachable(same, proportional(1).costs, budget, {"--exclude a": same})


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
        # Rounding to the nearest multiple takes less than half a step more.
        longest = min(depth + (group.step - 1) // 2, group.max_removed)
        prefix = sorted(range(len(group.u)), key=lambda unit: (group.u[unit], unit))[:longest]
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
