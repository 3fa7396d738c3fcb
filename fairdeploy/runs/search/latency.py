"""Meets a latency budget: what is reachable, before any image is read; and then the search."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.latency_model import latency_terms
from fairdeploy.allocation.latency_search import search_latency
from fairdeploy.allocation.nearby import nearby_plan
from fairdeploy.allocation.search import check_reachable, search, smallest_plan
from fairdeploy.deployment.devices.local_device import Device
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.errors import BudgetError
from fairdeploy.graph.cost_terms import node_works
from fairdeploy.graph.residual_branches import blocks_hint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    Allocation,
    Budget,
    GroupScores,
    LatencySearch,
    TargetProfile,
    TensorNames,
    TimedPlan,
)
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.search.trials import LatencyTrials, TrialSetting
from fairdeploy.runs.stages.groups import group_sizes, removed_units, smallest_plan_units
from fairdeploy.runs.stages.multiples import Multiple

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which units go, and what decided it."""

    allocation: Allocation
    costs: CostModel
    budgets: tuple[Budget, ...]
    """What ``costs`` held the plan to; of latency, what the model predicts of the plan."""
    search: LatencySearch | None = None


@dataclass(frozen=True, slots=True)
class LatencyPlanner:
    """What the ends of the reachable range take, and a model of what lies between."""

    budget: Budget
    """Of latency."""
    others: tuple[Budget, ...]
    """Of all else, which the plans meet too."""
    multiple: Multiple
    """What channel counts are multiples of."""
    graph: UnitGraph
    trials: LatencyTrials
    costs: CostModel
    """Of everything, and the model's ``latency`` in milliseconds."""
    smallest: TimedPlan
    smallest_share: float
    """What the model says of the smallest plan, as a share of the original."""

    @property
    def original_file(self) -> Path:
        """The original, exported."""
        return self.trials.original

    def choose(self, groups: tuple[GroupScores, ...], watch: Stopwatch) -> Chosen:
        """The plan that just meets the budget as measured, and all others as counted."""
        budget, others = self.budget, self.others
        original_ms = self.costs.cost(group_sizes(self.graph))["latency"]

        def budgets_at(share: float) -> tuple[Budget, ...]:
            limit = Budget("latency", budget.text, fraction=share * (1 + _ROUNDING))
            return (*others, limit)

        with watch.stage("search latency") as stage:

            def measure(allocation: Allocation) -> TimedPlan:
                timed = self.trials.time(removed_units(self.graph, groups, allocation))
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
        predicted = allocation.costs["latency"] / original_ms
        return Chosen(allocation, self.costs, budgets_at(predicted), record)


@contextmanager
def latency_planner(
    budget: Budget | None,
    others: tuple[Budget, ...],
    groups: Mapping[Multiple, tuple[GroupScores, ...]],
    *,
    graph: UnitGraph,
    exporter: Exporter,
    device: Device,
    profile: TargetProfile,
    names: TensorNames,
    seed: int,
    watch: Stopwatch,
) -> Iterator[LatencyPlanner | None]:
    """Time both ends of what is reachable; None where latency decides nothing.

    The files that it made are there until the block ends.

    Args:
        budget: Of latency.
        others: Of all else.
        groups: By channel multiple, with their caps and steps; their scores do not matter. The
            first multiple with which all budgets can be reached counts.
        graph: The network.
        exporter: Writes the files.
        device: Races them.
        profile: How.
        names: Of the files' inputs and outputs.
        seed: Of inputs and races.
        watch: Shows the stages.

    Raises:
        BudgetError: Even the smallest plan takes longer.
    """
    if budget is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        setting = TrialSetting(graph, exporter, device, profile, names, Path(folder), seed)
        yield _first_that_reaches(budget, others, groups, setting, watch)


def _first_that_reaches(
    budget: Budget,
    others: tuple[Budget, ...],
    groups: Mapping[Multiple, tuple[GroupScores, ...]],
    setting: TrialSetting,
    watch: Stopwatch,
) -> LatencyPlanner:
    *coarser, finest = groups
    for multiple in coarser:
        try:
            return _prepare(budget, others, multiple, groups[multiple], setting, watch)
        except BudgetError as error:
            watch.warn(f"with {multiple}: {error}; finer ones are tried")
    return _prepare(budget, others, finest, groups[finest], setting, watch)


def _prepare(
    budget: Budget,
    others: tuple[Budget, ...],
    multiple: Multiple,
    groups: tuple[GroupScores, ...],
    setting: TrialSetting,
    watch: Stopwatch,
) -> LatencyPlanner:
    graph = setting.graph
    counted = CostModel(graph.cost_terms, len(graph.groups))
    check_reachable(groups, counted.costs, others, {})
    removed = smallest_plan(groups)
    with watch.stage("latency range") as stage:
        trials = LatencyTrials(setting, smallest_plan_units(graph, groups))
        smallest = trials.time_smallest().timed_plan
        stage.note(f"{smallest.shrunk_ms:.3g} to {smallest.original_ms:.3g} ms")
        _refuse_unreachable(budget, smallest, setting.profile.name, graph)
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
    return LatencyPlanner(budget, others, multiple, graph, trials, costs, smallest, share)


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
