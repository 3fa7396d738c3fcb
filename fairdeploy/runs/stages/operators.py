"""Times every operator of both files, and compares them, where the device has a profiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Array, OperatorProfiler
from fairdeploy.deployment.latency.obstacles import Conditions
from fairdeploy.deployment.latency.operator_comparison import compare_operators
from fairdeploy.errors import ExportError, MeasurementError
from fairdeploy.graph.layer_facts import layer_facts
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    LatencyComparison,
    OperatorComparison,
    OperatorTime,
    TargetProfile,
    default_multiple,
)
from fairdeploy.runs.stopwatch import Stopwatch

ROUNDS = 2
"""Original and shrunk in turn; the faster round of an operator counts, slow spells only add."""
MAX_RUNS = 20
MIN_RUNS = 3
MAX_SECONDS = 5.0


def time_operators(
    files: tuple[Path, Path],
    inputs: tuple[Array, ...],
    graph: UnitGraph,
    removed: NDArray[np.bool_],
    latency: LatencyComparison,
    *,
    profiler: OperatorProfiler | None,
    profile: TargetProfile,
    held: Mapping[int, str],
    watch: Stopwatch,
) -> OperatorComparison | None:
    """Compare both files operator by operator; None if nothing there can tell.

    Args:
        files: Original and shrunk.
        inputs: One batch.
        graph: The network.
        removed: Boolean, shape [num_units].
        latency: Their race, which says how many runs there is time for.
        profiler: Times them; None if nothing can.
        profile: The target.
        held: By index of a group that the user keeps whole: the option.
        watch: Shows the stage.
    """
    if profiler is None:
        return None
    num_runs = _num_runs(latency.original.median_ms)
    with watch.stage("operators"):
        try:
            rounds = [
                [
                    profiler.operator_times(file, inputs, profile, num_runs=num_runs)
                    for file in files
                ]
                for _ in range(ROUNDS)
            ]
        except (ExportError, MeasurementError) as error:
            watch.warn(f"operators were not timed: {error}")
            return None
        original, shrunk = (_fastest(times) for times in zip(*rounds, strict=True))
        return compare_operators(
            original,
            shrunk,
            layer_facts(graph, removed),
            Conditions(default_multiple(profile), held, _starts_only(profile)),
            num_runs=num_runs,
        )


def _starts_only(profile: TargetProfile) -> bool:
    """Whether operators run on after the call that starts them, and the profiler sees only that."""
    return profile.runtime == "onnx" and not profile.providers[0].startswith("CPU")


def _num_runs(original_ms: float) -> int:
    """As many as there is time for in all rounds of both files."""
    affordable = int(1000 * MAX_SECONDS / (2 * ROUNDS * original_ms))
    return min(max(affordable, MIN_RUNS), MAX_RUNS)


def _fastest(rounds: Sequence[Sequence[OperatorTime]]) -> tuple[OperatorTime, ...]:
    """Each operator with the shortest of its medians."""
    best: dict[str, float] = {}
    for times in rounds:
        for time in times:
            best[time.name] = min(time.median_ms, best.get(time.name, time.median_ms))
    return tuple(replace(time, median_ms=best[time.name]) for time in rounds[0])
