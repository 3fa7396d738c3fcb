"""Makes and measures the networks of a sweep, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import DeviceLostError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    AccuracyEstimate,
    DataSplits,
    GroupScores,
    PlannedPoint,
    SweepPoint,
    TimedPlan,
)
from fairdeploy.reporting.quantities import NO_CLAIM
from fairdeploy.runs.progress import SilentStage, Stage, Stopwatch
from fairdeploy.runs.search.trials import LatencyTrials
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.groups import removed_units
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import mend
from fairdeploy.settings.run import RunSettings

_MAX_STEPS = 4


class StepsOf:
    """A ``Progress`` whose stages are the steps of one stage."""

    def __init__(self, outer: Stage, watch: Stopwatch) -> None:
        self._outer = outer
        self._watch = watch

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """One step of the outer stage."""
        yield SilentStage()
        self._outer.advance()

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self._watch.warn(text)


class PointMeter:
    """Removes, proves, repairs, tests and races; holds what all points have in common."""

    def __init__(
        self,
        graph: UnitGraph,
        groups: tuple[GroupScores, ...],
        data: DataSplits,
        settings: RunSettings,
        trials: LatencyTrials | None,
        watch: Stopwatch,
    ) -> None:
        self._graph, self._groups = graph, groups
        self._data, self._settings, self._trials = data, settings, trials
        self._watch = watch

    def original(self, costs: dict[str, float]) -> SweepPoint:
        """The network as it is."""
        accuracy, answers = self._tested(self._graph.module, self._watch, "original")
        return SweepPoint(
            "original", None, costs, r_mass_share=0.0, accuracy=accuracy, answers=answers
        )

    def measure(self, plan: PlannedPoint, title: str) -> SweepPoint:
        """The network of one plan, under one line of progress.

        Raises:
            ParityError: Its proof failed.
        """
        started = time.perf_counter()
        with self._watch.stage(title, total=_MAX_STEPS) as stage:
            point = self._measured(plan, Stopwatch(StepsOf(stage, self._watch)), started)
            stage.note(_in_short(point))
        return point

    def _measured(self, plan: PlannedPoint, steps: Stopwatch, started: float) -> SweepPoint:
        removed = removed_units(self._graph, self._groups, plan.allocation)
        with steps.stage("remove and prove"):
            shrunk, proof = remove_and_prove(self._graph, removed, self._settings.model.seed)
        mend(self._graph, shrunk, removed, self._data, self._settings, steps)
        accuracy, answers = self._tested(shrunk, steps, plan.name)
        latency = self._latency(removed, steps)
        return SweepPoint(
            plan.name,
            plan,
            plan.allocation.costs,
            plan.r_mass_share,
            proof,
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
                self._watch.warn(f"this network and those after it were not raced: {error}")
                return None

    def _tested(
        self, network: fx.GraphModule, watch: Stopwatch, step: str
    ) -> tuple[AccuracyEstimate | None, Tensor | None]:
        """Accuracy and answers; None where there are no labelled test images."""
        evaluation = Evaluation(self._graph, self._data.test, watch)
        evaluation.add(step, network)
        return evaluation.estimates.get(step), evaluation.answers(step)


def _in_short(point: SweepPoint) -> str:
    """``params=39%  98.67%  1.57x``."""
    parts = [point.plan.budget.text if point.plan else point.name]
    if point.accuracy is not None:
        parts.append(f"{point.accuracy.value:.2%}")
    if point.latency is not None:
        timed = point.latency
        parts.append(NO_CLAIM if timed.is_too_busy else f"{1 / timed.ratio:.2f}x")
    return "  ".join(parts)
