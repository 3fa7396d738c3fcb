"""Export the shrunk network, check the file, and race it against the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.deployment.devices.local_device import OperatorProfiler, profiler_on
from fairdeploy.deployment.exporter_api import Array, Runner
from fairdeploy.deployment.latency.obstacles import Conditions
from fairdeploy.deployment.latency.operator_comparison import compare_operators
from fairdeploy.deployment.parity import check_parity, repeated
from fairdeploy.deployment.variant_checks import tolerance_of
from fairdeploy.errors import ExportError, MeasurementError
from fairdeploy.graph.layer_facts import layer_facts
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    Artifact,
    DataSplits,
    LatencyComparison,
    OperatorComparison,
    OperatorTime,
    ParityResult,
    TargetProfile,
    default_multiple,
)
from fairdeploy.records.input_specs import sizes_text
from fairdeploy.reporting.quantities import NO_CLAIM
from fairdeploy.runs.problem import Planned, Problem
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.run import Run
from fairdeploy.runs.stages.repair import Repaired
from fairdeploy.settings.run import RunSettings

NETWORK_FILE = "model"
"""Name of the deployed network; the exporter's suffix follows."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported file, and how it compares with torch."""

    file: Path
    artifact: Artifact
    parity: tuple[ParityResult, ...]


@dataclass(frozen=True, slots=True)
class Raced:
    """The race of the exported file against the original; None: it was not run, or failed."""

    latency: LatencyComparison | None = None
    operators: OperatorComparison | None = None


def export_and_check(
    run: Run[RunSettings],
    problem: Problem,
    repaired: Repaired,
    data: DataSplits,
    file: Path,
    metadata: Mapping[str, str],
) -> Exported:
    """Write ``file`` with the shrunk network, compare its answers with torch's, and test it.

    Nothing is judged here: a file that is not what torch says is written all the same.
    """
    graph, exporter, module = problem.graph, run.exporter, repaired.shrunk.module
    with run.watch.stage("export") as stage:
        artifact = exporter.export(
            module, graph.example_inputs, file, dynamic_batch=graph.has_dynamic_batch,
            metadata=metadata, names=problem.names,
        )  # fmt: skip
        stage.note(f"{artifact.size_bytes / 1e6:.1f} MB")
    with run.watch.stage("parity"):
        runner = exporter.open(file, problem.profile)
        parity = _parity(runner, file.name, problem, module, data)
    repaired.evaluation.add("exported", runner)
    runner.close()
    return Exported(file, artifact, parity)


def race(run: Run[RunSettings], planned: Planned, data: DataSplits, file: Path) -> Raced:
    """Race the shrunk network's file against the original, and time both by operator.

    A race that fails costs only the measurement: the network is finished.
    """
    if not run.settings.with_latency:
        return Raced()
    problem, watch = planned.problem, run.watch
    graph, profile = problem.graph, problem.profile
    batch = profile.batch if graph.has_dynamic_batch else graph.inputs.batch
    arrays = tuple(x.numpy() for x in repeated(graph.inputs.arranged(data.calibration), 0, batch))
    with watch.stage("latency") as stage:
        original = planned.original_file or run.scratch / f"original{run.exporter.file_suffix}"
        try:
            if planned.original_file is None:
                run.exporter.export(
                    graph.module, graph.example_inputs, original,
                    dynamic_batch=graph.has_dynamic_batch, metadata={}, names=problem.names,
                )  # fmt: skip
            latency = run.device.compare(original, file, arrays, profile, seed=run.seed)
        except (ExportError, MeasurementError) as error:
            watch.warn(f"the file that is written was not measured: {error}")
            return Raced()
        stage.note(NO_CLAIM if latency.is_too_busy else f"{latency.speedup:.2f}x")
    timer = OperatorTimer(profiler_on(run.device, run.exporter), profile, problem.held, watch)
    operators = timer.compare((original, file), arrays, graph, planned.removed, latency)
    return Raced(latency, operators)


def _parity(
    runner: Runner, artifact: str, problem: Problem, module: fx.GraphModule, data: DataSplits
) -> tuple[ParityResult, ...]:
    """On the calibration images, and on random inputs of another size where sizes vary."""
    graph, profile = problem.graph, problem.profile
    batches = (1, 3) if graph.has_dynamic_batch else (graph.inputs.batch,)
    compare = partial(
        check_parity, runner, module, artifact,
        batches=batches, limit=profile.parity_limit,
        max_column_error=tolerance_of(profile.precision, profile.parity_limit).max_column_error,
        main_output=graph.outputs.main, task=graph.outputs.task.informed(data),
        batch_dims=graph.outputs.batch_dims,
    )  # fmt: skip
    inputs = graph.inputs.arranged(data.calibration)
    results = compare(inputs, image_size=sizes_text(graph.inputs.sizes))
    other = graph.inputs.other_sizes()
    if not other:
        return results
    generator = torch.Generator().manual_seed(0)
    noise = graph.inputs.random(4 * max(batches), generator, other)
    return results + compare(noise, image_size=sizes_text(other))


# ---- times every operator of both files, and compares them, where the device has a profiler ------


ROUNDS = 2
"""Original and shrunk in turn; the faster round of an operator counts, slow spells only add."""
MAX_RUNS = 20
MIN_RUNS = 3
MAX_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OperatorTimer:
    """Compares files operator by operator."""

    profiler: OperatorProfiler | None
    """None if nothing can tell."""
    profile: TargetProfile
    held: Mapping[int, str]
    """By index of a group that the user keeps whole: the option."""
    watch: Stopwatch

    def compare(
        self,
        files: tuple[Path, Path],
        inputs: tuple[Array, ...],
        graph: UnitGraph,
        removed: NDArray[np.bool_],
        latency: LatencyComparison,
    ) -> OperatorComparison | None:
        """Original and shrunk by operator; None if nothing there can tell.

        Args:
            files: Original and shrunk.
            inputs: One batch.
            graph: The network.
            removed: Boolean, shape [num_units].
            latency: Their race, which says how many runs there is time for.
        """
        if self.profiler is None:
            return None
        num_runs = _num_runs(latency.original.median_ms)
        with self.watch.stage("operators"):
            try:
                rounds = [
                    [
                        self.profiler.operator_times(file, inputs, self.profile, num_runs=num_runs)
                        for file in files
                    ]
                    for _ in range(ROUNDS)
                ]
            except (ExportError, MeasurementError) as error:
                self.watch.warn(f"operators were not timed: {error}")
                return None
            original, shrunk = (_fastest(times) for times in zip(*rounds, strict=True))
            conditions = Conditions(
                default_multiple(self.profile), self.held, _starts_only(self.profile)
            )
            facts = layer_facts(graph, removed)
            return compare_operators(original, shrunk, facts, conditions, num_runs=num_runs)


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
