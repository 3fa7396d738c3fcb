"""Meets a latency budget: what is reachable, before any image is read; and then the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.latency_model import latency_terms
from fairdeploy.allocation.latency_search import search_latency
from fairdeploy.allocation.nearby import nearby_plan
from fairdeploy.allocation.search import check_reachable, search, smallest_plan
from fairdeploy.errors import BudgetError
from fairdeploy.graph.cost_terms import node_works
from fairdeploy.graph.residual_branches import blocks_hint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Allocation, Budget, DataSplits, TimedPlan, UnitScores
from fairdeploy.runs.problem import Planned, Problem, Search
from fairdeploy.runs.run import Run
from fairdeploy.runs.search.trials import LatencyTrials, trial_setting
from fairdeploy.runs.stages.groups import group_sizes, removed_units, smallest_plan_units
from fairdeploy.settings.run import ShrinkSettings

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LatencyRaces(Search):
    """What the ends of the reachable range take, and a model of what lies between.

    The problem has the first channel multiple that reaches all budgets.
    """

    budget: Budget
    """Of latency."""
    trials: LatencyTrials
    costs: CostModel
    """Of everything, and the model's ``latency`` in milliseconds."""
    smallest: TimedPlan
    smallest_share: float
    """What the model says of the smallest plan, as a share of the original."""

    def plan(self, scores: UnitScores, data: DataSplits) -> Planned:
        """The plan that just meets the budget as measured, and all others as counted."""
        problem, budget, others = self.problem, self.budget, self.problem.counted
        groups = problem.groups(scores)
        original_ms = self.costs.cost(group_sizes(problem.graph))["latency"]

        def budgets_at(share: float) -> tuple[Budget, ...]:
            limit = Budget("latency", budget.text, fraction=share * (1 + _ROUNDING))
            return (*others, limit)

        with self.run.watch.stage("search latency") as stage:

            def measure(allocation: Allocation) -> TimedPlan:
                timed = self.trials.time(removed_units(problem.graph, groups, allocation))
                stage.note(f"{timed.ratio:.1%} of the original's latency, {budget.text}")
                return timed

            allocation, record = search_latency(
                lambda share: search(groups, self.costs.costs, budgets_at(share)),
                measure,
                lambda timed: share_of_budget(budget, timed),
                predicted=lambda plan: plan.costs["latency"] / original_ms,
                smallest=(self.smallest_share, self.smallest),
                original=original_of(self.smallest),
                budget=budget.text,
                nearby=lambda plan, share, fixed: nearby_plan(
                    plan, groups, self.costs.costs, others,
                    latency_ms=share * original_ms, fixed=fixed,
                ),
            )  # fmt: skip
            stage.note(f"{record.num_measured} candidates measured, {record.ended_because}")
        predicted = budgets_at(allocation.costs["latency"] / original_ms)
        return Planned(
            problem, groups, allocation, self.costs, predicted,
            latency=record, original_file=self.trials.original,
        )  # fmt: skip


def ready_to_race(run: Run[ShrinkSettings], problem: Problem, budget: Budget) -> LatencyRaces:
    """Time both ends of what is reachable, with the first channel multiple that meets all budgets.

    Raises:
        BudgetError: Even the smallest plan takes longer.
    """
    *coarser, finest = problem.multiple.to_try
    for multiple in coarser:
        try:
            return _time_ends(run, problem.rounded_to(multiple), budget)
        except BudgetError as error:
            run.watch.warn(f"with {multiple}: {error}; finer ones are tried")
    return _time_ends(run, problem.rounded_to(finest), budget)


def _time_ends(run: Run[ShrinkSettings], problem: Problem, budget: Budget) -> LatencyRaces:
    graph, groups = problem.graph, problem.groups()
    check_reachable(groups, problem.costs.costs, problem.counted, {})
    removed = smallest_plan(groups)
    with run.watch.stage("latency range") as stage:
        trials = LatencyTrials(trial_setting(run, problem), smallest_plan_units(graph, groups))
        smallest = trials.time_smallest().timed_plan
        stage.note(f"{smallest.shrunk_ms:.3g} to {smallest.original_ms:.3g} ms")
        _refuse_unreachable(budget, smallest, problem.profile.name, graph)
        sizes = group_sizes(graph)
        kept = sizes - np.array([len(removed[group.name]) for group in groups], dtype=np.int64)
        times = trials.node_times(trials.original), trials.node_times(trials.narrowest)
        # without a profiler, MACs are what there is
        terms = (
            latency_terms(node_works(graph), *times, _with_all_branches(graph, kept), sizes)
            if times[0]
            else graph.cost_terms["macs"]
        )
    costs = CostModel({**graph.cost_terms, "latency": terms}, len(graph.groups))
    share = costs.cost(kept)["latency"] / costs.cost(sizes)["latency"]
    return LatencyRaces(run, problem, budget, trials, costs, smallest, share)


def _with_all_branches(graph: UnitGraph, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Kept counts [G] with every residual branch."""
    kept = kept.copy()
    kept[[branch.group for branch in graph.branches]] = 1
    return kept


def share_of_budget(budget: Budget, timed: TimedPlan) -> float:
    """How much of the budget a plan took.

    A share of the original is compared as a ratio, since both ran in turn; milliseconds as they
    are.
    """
    if budget.fraction is not None:
        return timed.ratio / budget.fraction
    assert budget.absolute is not None
    return timed.shrunk_ms / budget.absolute


def original_of(timed: TimedPlan) -> TimedPlan:
    """The original, as it ran beside a plan."""
    return TimedPlan(1.0, 1.0, 1.0, timed.original_ms, timed.original_ms)


def _refuse_unreachable(budget: Budget, smallest: TimedPlan, target: str, graph: UnitGraph) -> None:
    if share_of_budget(budget, smallest) <= 1:
        return
    raise BudgetError(
        f"cannot reach {budget.text} on target '{target}': the smallest allowed plan takes "
        f"{smallest.shrunk_ms:.3g} ms ({smallest.ratio:.1%} of the original's "
        f"{smallest.original_ms:.3g} ms); raise the budget, {blocks_hint(graph)}or see with "
        "'fairdeploy inspect' what cannot be removed and why"
    )
