"""Scores that differ in their last digits alone, as between two processors, give one plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.nearby import nearby_plan
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.graph.unit_graph import CostTerm, UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import Allocation, AllocationRule, Budget, UnitScores
from fairdeploy.runs.stages.groups import group_scores
from fairdeploy.scoring.readings import Measured, with_stand_in
from fairdeploy.scoring.reconstructability import AdaptingLayer, Inputs, elimination_costs
from fairdeploy.scoring.utilization import class_members
from tests.random_networks import IMAGE, RandomNetwork, randomise

KINDS = ("residual", "grouped", "attention", "plain", "depthwise")
RULES: tuple[AllocationRule, ...] = ("tod", "uniform", "global")


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    network = randomise(RandomNetwork(KINDS, (8, 12, 8, 12, 8), flatten=False), 0)
    return build_unit_graph(network, (torch.zeros(2, *IMAGE),))


def tied(graph: UnitGraph, seed: int) -> UnitScores:
    """Few different scores, so that most are equal."""
    random = np.random.default_rng(seed)
    u, r = random.integers(0, 4, (2, graph.num_units)) / 3.0
    return UnitScores(u, r, 5, 0)


def with_other_digits(scores: UnitScores, seed: int) -> UnitScores:
    return replace(
        scores, u=rounded_otherwise(scores.u, seed), r=rounded_otherwise(scores.r, ~seed)
    )


def rounded_otherwise(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(abs(seed))
    noise = random.uniform(-1e-8, 1e-8, values.shape)
    return values * (1 + noise) + np.where(values == 0, 0.0, noise)


def plan(graph: UnitGraph, scores: UnitScores, rule: AllocationRule, share: float) -> Allocation:
    groups = group_scores(graph, scores, 1, allocation=rule)
    costs = CostModel(graph.cost_terms, len(groups))
    return search(groups, costs.costs, [Budget("macs", "macs", fraction=share)])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.8, 0.55])
def test_last_digits_of_scores_change_no_plan(
    graph: UnitGraph, rule: AllocationRule, share: float
) -> None:
    scores = tied(graph, 1)
    wanted = plan(graph, scores, rule, share).removed
    assert any(wanted.values())
    for seed in range(5):
        assert plan(graph, with_other_digits(scores, seed), rule, share).removed == wanted


def test_last_digits_of_scores_change_no_plan_beside_the_path(graph: UnitGraph) -> None:
    num_groups = len(graph.groups)
    terms = {
        "params": graph.cost_terms["params"],
        "latency": tuple(
            CostTerm(float(1 + number % 2), ((0, ((number, 1),)),)) for number in range(num_groups)
        ),
    }
    model = CostModel(terms, num_groups)
    budgets = [Budget("params", "params", fraction=0.7)]

    def found(scores: UnitScores) -> dict[str, tuple[int, ...]]:
        groups = group_scores(graph, scores, 1)
        before = search(groups, model.costs, budgets)
        wanted_ms = 0.9 * float(before.costs["latency"])
        plan = nearby_plan(before, groups, model.costs, budgets, latency_ms=wanted_ms)
        assert plan is not None
        return dict(plan.removed)

    scores = tied(graph, 2)
    wanted = found(scores)
    for seed in range(5):
        assert found(with_other_digits(scores, seed)) == wanted


def test_inputs_that_cost_the_same_go_in_their_own_order_whatever_the_last_digits() -> None:
    units = np.arange(12)
    inputs = Inputs(units, torch.arange(12)[:, None])
    for seed in range(5):
        noise = 1e-9 * torch.randn(12, generator=torch.Generator().manual_seed(seed)).double()
        weight = (torch.tensor([1.0, 2.0, 3.0] * 4).double() + noise)[:, None]
        layer = AdaptingLayer(torch.eye(12).double(), weight, [inputs])
        scores = elimination_costs([layer], 12)
        wanted = [*range(0, 12, 3), *range(1, 12, 3), *range(2, 12, 3)]
        assert np.argsort(scores, kind="stable").tolist() == wanted


def test_stand_in_ranks_and_halves_of_images_break_near_ties_by_position(graph: UnitGraph) -> None:
    none = Measured(np.zeros(graph.num_units), np.zeros(graph.num_units, dtype=np.bool_))
    equal = np.ones(graph.num_units)
    for seed in range(5):
        found = with_stand_in(graph, none, rounded_otherwise(equal, seed))
        assert np.array_equal(found, with_stand_in(graph, none, equal))
        logits = torch.from_numpy(rounded_otherwise(np.ones(6), seed))
        low, high = class_members(torch.zeros(6, dtype=torch.int64), logits)
        assert (low.tolist(), high.tolist()) == ([0, 1, 2], [3, 4, 5])


def test_a_share_that_is_whole_but_for_rounding_is_whole() -> None:
    assert Budget("params", "params=29%", fraction=0.29).allowed(100) == 29
    assert Budget("params", "params=30%", fraction=0.3).allowed(101) == pytest.approx(30.3)
    third = CostModel({"macs": (CostTerm(1 / 3, ((0, ((0, 3),)), (0, ((0, 7),)))),)}, 1)
    assert [third.cost(np.array([kept]))["macs"] for kept in range(1, 6)] == [
        7 * kept**2 for kept in range(1, 6)
    ]


def test_a_budget_that_a_plan_meets_to_the_unit_is_met() -> None:
    model = CostModel({"params": (CostTerm(1.0, ((0, ((0, 1),)),)),)}, 1)
    graph = build_unit_graph(
        nn.Sequential(nn.Linear(2, 100), nn.Linear(100, 2)), (torch.zeros(2, 2),)
    )
    groups = group_scores(graph, tied(graph, 0), 1)
    assert reachable_range(groups, model.costs)["params"] == (1.0, 100.0)
    found = search(groups, model.costs, [Budget("params", "params=29%", fraction=0.29)])
    assert found.costs["params"] == 29
