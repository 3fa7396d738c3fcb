"""Which residual blocks go at which tolerance, alone and together with widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.depth import DEPTH_RELUCTANCE, depth_tolerances, with_depth_rule
from fairdeploy.allocation.restrictions import rules_of
from fairdeploy.allocation.search import check_reachable, depth_steps, depths_at, search
from fairdeploy.allocation.tolerance import deepest_prefix, removal_order, tod_curve
from fairdeploy.errors import BudgetError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import Budget, GroupScores, Restrictions, UnitScores
from fairdeploy.runs.stages.groups import group_scores, group_sizes, limits_of
from tests.allocation.strategies import SCORES
from tests.residual_networks import images, network

ALPHAS = [step / 20 for step in range(21)]


def graph_of(kind: str, *, blocks: bool = True) -> UnitGraph:
    return build_unit_graph(network(kind), (images(2),), blocks=blocks)


def scores_of(graph: UnitGraph, seed: int) -> UnitScores:
    random = np.random.default_rng(seed)
    return UnitScores(random.random(graph.num_units), random.random(graph.num_units), 2, 0)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=12), st.sampled_from(ALPHAS))
def test_blocks_that_go_are_the_deepest_prefix_of_their_own_curve(
    scores: list[tuple[float, float]], alpha: float
) -> None:
    u, r = np.array(scores).T
    gone = np.flatnonzero(depth_tolerances(u, r, reluctance=0.0) <= alpha)
    depth = deepest_prefix(tod_curve(u, r), alpha, len(u))
    assert set(gone.tolist()) == set(removal_order(u)[:depth].tolist())


def test_worked_example_with_reluctance() -> None:
    # removal order 0, 1, 2; protection order 0, 2, 1: ToD(1) = 1, ToD(2) = 1/2, ToD(3) = 1
    u, r = np.array([1.0, 2.0, 3.0]), np.array([9.0, 1.0, 5.0])
    assert tod_curve(u, r).tolist() == [1.0, 0.5, 1.0]
    found = depth_tolerances(u, r, reluctance=0.5)
    assert found.tolist() == [0.75, 0.75, 1.0]


def test_group_of_a_block_goes_at_its_tolerance() -> None:
    block = GroupScores("b", np.ones(1), np.ones(1), max_removed=1, tolerances=np.array([0.75]))
    assert [depth_steps(block).depth_at(alpha) for alpha in (0.7, 0.75, 1.0)] == [0, 1, 1]
    held = replace(block, max_removed=0)
    assert depth_steps(held).depth_at(1.0) == 0


def test_only_blocks_get_tolerances() -> None:
    groups = [
        GroupScores("a", np.ones(3), np.ones(3), 2),
        GroupScores("b", np.ones(1), np.ones(1), 1),
    ]
    plain, block = with_depth_rule(groups, [1])
    assert plain.tolerances is None
    assert block.tolerances is not None
    assert with_depth_rule(groups, []) == tuple(groups)


def test_first_block_of_a_stream_may_not_go() -> None:
    graph = graph_of("option A")
    limits = limits_of(graph, 1)
    assert [limits[branch.group].max_removed for branch in graph.branches] == [0, 1, 1, 0, 1, 1]


def test_blocks_stay_below_the_reluctance() -> None:
    graph = graph_of("convnext")
    groups = group_scores(graph, scores_of(graph, 1), 1)
    tolerances = [groups[branch.group].tolerances for branch in graph.branches]
    assert all(found is not None and found[0] >= DEPTH_RELUCTANCE for found in tolerances)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["option A", "transformer"]), st.integers(0, 2**16))
def test_cost_never_rises_when_tolerance_rises(kind: str, seed: int) -> None:
    graph = GRAPHS[kind]
    groups = group_scores(graph, scores_of(graph, seed), 1)
    steps = [depth_steps(group) for group in groups]
    sizes = group_sizes(graph)
    model = CostModel(graph.cost_terms, len(graph.groups))
    costs = model.costs(np.stack([sizes - depths_at(steps, alpha) for alpha in ALPHAS]))
    for metric in ("params", "macs", "size"):
        assert (np.diff(costs[metric]) <= 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["option A", "transformer"]), st.integers(0, 2**16), st.integers(35, 95))
def test_search_meets_the_budget_and_gives_back_what_it_can(
    kind: str, seed: int, percent: int
) -> None:
    graph = GRAPHS[kind]
    groups = group_scores(graph, scores_of(graph, seed), 1)
    model = CostModel(graph.cost_terms, len(graph.groups))
    sizes = group_sizes(graph)
    allowed = percent / 100 * model.cost(sizes)["macs"]
    budget = Budget("macs", f"macs={percent}%", fraction=percent / 100)
    allocation = search(groups, model.costs, [budget])
    gone = [len(allocation.removed[group.name]) for group in groups]
    kept = sizes - np.array(gone, dtype=np.int64)
    assert model.cost(kept)["macs"] <= allowed
    for index in np.flatnonzero(kept < sizes):
        more = kept.copy()
        more[index] += 1
        assert model.cost(more)["macs"] > allowed
    for branch in graph.branches:
        if kept[branch.group] == 0:  # nothing inside counts as removed
            inside = set(branch.tensors)
            for group, count, size in zip(graph.groups, kept, sizes, strict=True):
                if group.members and all(member.tensor in inside for member in group.members):
                    assert count == size


def test_network_whose_blocks_may_go_gets_smaller() -> None:
    least = {}
    for blocks in (False, True):
        graph = graph_of("option A", blocks=blocks)
        model = CostModel(graph.cost_terms, len(graph.groups))
        groups = group_scores(graph, None, 1)
        most = np.array([group.max_removed for group in groups], dtype=np.int64)
        kept = group_sizes(graph) - most
        least[blocks] = model.cost(kept)["macs"]
    assert least[True] < 0.7 * least[False]


def test_unreachable_budget_tells_of_the_option() -> None:
    graph = graph_of("option A", blocks=False)
    model = CostModel(graph.cost_terms, len(graph.groups))
    budget = Budget("macs", "macs=1%", fraction=0.01)
    with pytest.raises(BudgetError, match=r"raise the budget, let 4 residual blocks go or see"):
        check_reachable(
            group_scores(graph, None, 1), model.costs, [budget],
            hint=lambda: "let 4 residual blocks go ",
        )  # fmt: skip


def test_globs_hold_and_release_blocks_by_their_modules() -> None:
    graph = graph_of("option A")
    names = {branch.group: branch.name for branch in graph.branches}

    def may_go(restrictions: Restrictions) -> list[str]:
        limits = limits_of(graph, 1, rules_of(graph, restrictions))
        return [name for group, name in names.items() if limits[group].max_removed]

    assert may_go(Restrictions(exclude=("layer1.1",))) == ["layer1.2", "layer2.1", "layer2.2"]
    assert may_go(Restrictions(include=("layer2",))) == ["layer2.1", "layer2.2"]
    free = may_go(Restrictions())
    assert may_go(Restrictions(max_prune=(("*", 0.5),), min_units=(("*", 3),), round_to=2)) == free


def test_other_rules_take_a_block_last() -> None:
    graph = graph_of("option A")
    groups = group_scores(graph, scores_of(graph, 3), 1, allocation="uniform")
    blocks = [groups[branch.group] for branch in graph.branches]
    assert all(group.knob is not None and group.knob.tolist() == [1.0] for group in blocks)


GRAPHS = {kind: graph_of(kind) for kind in ("option A", "transformer")}
