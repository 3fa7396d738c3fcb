"""Makes and measures the networks of a sweep, one after the other."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import DeviceLostError
from fairdeploy.records import (
    AccuracyEstimate,
    DataSplits,
    GroupScores,
    PlannedPoint,
    SweepPoint,
    TimedPlan,
)
from fairdeploy.reporting.quantities import NO_CLAIM
from fairdeploy.runs.problem import Problem
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.run import Run
from fairdeploy.runs.search.trials import LatencyTrials, trial_setting
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.groups import removed_units, smallest_plan_units
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import repair
from fairdeploy.settings.run import SweepSettings

_MAX_STEPS = 4


class PointMeter:
    """Removes, proves, repairs, tests and races; holds what all points have in common."""

    def __init__(
        self,
        run: Run[SweepSettings],
        problem: Problem,
        groups: tuple[GroupScores, ...],
        data: DataSplits,
    ) -> None:
        """Export both ends of what is raced, if anything is."""
        self._run, self._problem, self._groups, self._data = run, problem, groups, data
        self._trials: LatencyTrials | None = None
        if run.settings.with_latency:
            smallest = smallest_plan_units(problem.graph, problem.groups())
            with run.watch.stage("export both ends"):
                self._trials = LatencyTrials(trial_setting(run, problem), smallest)

    def original(self) -> SweepPoint:
        """The network as it is."""
        network, watch = self._problem.graph.module, self._run.watch
        accuracy, answers = self._tested(network, watch, "original")
        costs = self._problem.original_costs
        return SweepPoint(
            "original", None, costs, r_mass_share=0.0, accuracy=accuracy, answers=answers
        )

    def measure(self, plan: PlannedPoint, title: str) -> SweepPoint:
        """The network of one plan, under one line of progress.

        Raises:
            ParityError: Its proof failed.
        """
        started = time.perf_counter()
        with self._run.watch.stage(title, total=_MAX_STEPS) as stage:
            point = self._measured(plan, self._run.watch.inside(stage, counts=True), started)
            stage.note(_summary(point))
        return point

    def _measured(self, plan: PlannedPoint, steps: Stopwatch, started: float) -> SweepPoint:
        graph = self._problem.graph
        removed = removed_units(graph, self._groups, plan.allocation)
        with steps.stage("remove and prove"):
            shrunk = remove_and_prove(graph, removed, self._run.seed)
        repair(replace(self._run, watch=steps), shrunk, self._data)
        accuracy, answers = self._tested(shrunk.module, steps, plan.name)
        latency = self._latency(removed, steps)
        return SweepPoint(
            plan.name,
            plan,
            plan.allocation.costs,
            plan.r_mass_share,
            shrunk.proof,
            accuracy,
            latency,
            answers,
            time.perf_counter() - started,
        )

    def _latency(self, removed: NDArray[np.bool_], steps: Stopwatch) -> TimedPlan | None:
        """None without a device; one that was lost is not asked again."""
        if self._trials is None:
            return None
        with steps.stage("latency"):
            try:
                return self._trials.time(removed)
            except DeviceLostError as error:
                self._trials = None
                self._run.watch.warn(f"this network and those after it were not raced: {error}")
                return None

    def _tested(
        self, network: fx.GraphModule, watch: Stopwatch, step: str
    ) -> tuple[AccuracyEstimate | None, Tensor | None]:
        """Accuracy and answers; None where there are no labelled test images."""
        evaluation = Evaluation(self._problem.graph, self._data.test, watch)
        evaluation.add(step, network)
        return evaluation.estimates.get(step), evaluation.answers(step)


def _summary(point: SweepPoint) -> str:
    """``params=39%  98.67%  1.57x``."""
    parts = [point.plan.budget.text if point.plan else point.name]
    if point.accuracy is not None:
        parts.append(f"{point.accuracy.value:.2%}")
    if point.latency is not None:
        timed = point.latency
        parts.append(NO_CLAIM if timed.is_too_busy else f"{1 / timed.ratio:.2f}x")
    return "  ".join(parts)
