from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.diagnostics import diagnose, r_mass_bound, uniform_pruning
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.allocation.shared_knob import with_shared_knob
from fairdeploy.allocation.tolerance import removal_order, tod_curve
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import AllocationRule, Budget, GroupScores
from tests.allocation.strategies import Problem, group_scores, problems

HALF = Budget("params", "params=50%", fraction=0.5)


def test_bound_of_a_worked_example_is_right() -> None:
    # Depth 3 at ToD 2/3: two of the three may be the top two (9 + 8), one weighs at most 5.
    assert r_mass_bound(np.array([1.0, 9.0, 5.0, 8.0]), depth=3, alpha=2 / 3) == 22.0


def test_bound_of_nothing_is_nothing() -> None:
    assert r_mass_bound(np.array([1.0, 2.0]), depth=0, alpha=1.0) == 0.0


@given(group_scores(), st.floats(0, 0.5))
def test_no_prefix_has_more_r_mass_than_the_bound(group: GroupScores, spare: float) -> None:
    curve, order = tod_curve(group.u, group.r), removal_order(group.u)
    for depth in range(1, len(group.u) + 1):
        mass = group.r[order[:depth]].sum()
        tight = r_mass_bound(group.r, depth, float(curve[depth - 1]))
        loose = r_mass_bound(group.r, depth, min(1.0, float(curve[depth - 1]) + spare))
        assert mass <= tight + 1e-9
        assert tight <= loose + 1e-9


def two_layers() -> tuple[tuple[GroupScores, ...], CostModel]:
    """Layer "useless" should lose all it may, layer "vital" nothing; equal prices."""
    groups = (
        GroupScores("useless", np.arange(4.0), np.array([0.0, 0.1, 0.2, 0.3]), 3),
        GroupScores("vital", np.arange(4.0), np.array([9.0, 8.0, 7.0, 6.0]), 3),
    )
    terms = tuple(CostTerm(1.0, ((0, ((index, 1),)),)) for index in range(2))
    return groups, CostModel({"params": terms}, 2)


def test_uniform_pruning_takes_the_same_share_of_every_group() -> None:
    groups, model = two_layers()
    uniform = uniform_pruning(groups, model.costs, [HALF])
    assert uniform.tolerance == 0.5
    assert uniform.removed == {"useless": (0, 1), "vital": (0, 1)}


def test_exchange_is_the_r_mass_that_uniform_pruning_would_have_removed_on_top() -> None:
    groups, model = two_layers()
    budget = [Budget("params", "params=75%", fraction=0.75)]
    diagnostics = diagnose(groups, search(groups, model.costs, budget), model.costs, budget)
    # ToD takes units 0 and 1 of "useless" (0.0 + 0.1); uniform one unit of each (0.0 + 9.0).
    assert diagnostics.groups["useless"].r_mass_removed == pytest.approx(0.1)
    assert diagnostics.groups["vital"].r_mass_removed == 0.0
    assert diagnostics.groups["vital"].r_mass_uniform == 9.0
    assert diagnostics.exchange == pytest.approx(8.9)
    assert diagnostics.uniform_fraction == 0.25
    assert [item.num_removed_uniform for item in diagnostics.groups.values()] == [1, 1]


@given(problems(), st.floats(0.05, 0.95))
def test_removed_mass_is_within_the_bound_after_any_search(problem: Problem, place: float) -> None:
    sizes = problem.kept({group.name: 0 for group in problem.groups})
    most = np.array([group.max_removed for group in problem.groups])
    low = problem.model.cost(sizes - most)["params"]
    high = problem.model.cost(sizes)["params"]
    budget = [Budget("params", "params", absolute=low + place * (high - low))]
    allocation = search(problem.groups, problem.model.costs, budget)
    diagnostics = diagnose(problem.groups, allocation, problem.model.costs, budget)
    for item in diagnostics.groups.values():
        assert item.r_mass_removed <= item.r_mass_prefix + 1e-9
        assert item.r_mass_prefix <= item.r_mass_bound + 1e-9
        assert item.tod <= allocation.tolerance + 1e-12


def test_bound_on_what_went_counts_its_protected_units() -> None:
    # Units 0 and 1 go first, but unit 1 is among the two most protected (9 and 5).
    groups = (GroupScores("conv", np.arange(4.0), np.array([1.0, 9.0, 5.0, 2.0]), 3),)
    model = CostModel({"params": (CostTerm(1.0, ((0, ((0, 1),)),)),)}, 1)
    diagnostics = diagnose(groups, search(groups, model.costs, [HALF]), model.costs, [HALF])
    item = diagnostics.groups["conv"]
    assert item.share_protected == 0.5
    assert item.r_mass_removed == 10.0
    # One may weigh 9, the other at most the second highest R, 5.
    assert item.r_mass_bound_removed == 14.0


@given(problems(max_step=4), st.floats(0.0, 1.0), st.sampled_from(["tod", "uniform", "global"]))
def test_removed_mass_is_within_the_bound_of_its_own_share_under_any_rule(
    problem: Problem, place: float, rule: AllocationRule
) -> None:
    groups = with_shared_knob(problem.groups, rule)
    low, high = reachable_range(groups, problem.model.costs)["params"]
    budget = [Budget("params", "params", absolute=low + place * (high - low))]
    allocation = search(groups, problem.model.costs, budget)
    diagnostics = diagnose(groups, allocation, problem.model.costs, budget)
    for item in diagnostics.groups.values():
        assert item.r_mass_removed <= item.r_mass_bound_removed + 1e-9
        assert 0 <= item.share_protected <= 1
