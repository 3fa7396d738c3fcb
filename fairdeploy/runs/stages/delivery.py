"""Export the shrunk network, check the file, and race it against the original."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.deployment.devices.local_device import Device, OperatorProfiler, profiler_on
from fairdeploy.deployment.exporter_api import Array, Exporter, Runner
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
    TensorNames,
    default_multiple,
)
from fairdeploy.records.input_specs import VaryingSize, sizes_text
from fairdeploy.reporting.quantities import NO_CLAIM
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.surgery.plan import Plan
from fairdeploy.tasks.base import Task

NETWORK_FILE = "model"
"""Name of the deployed network; the exporter's suffix follows."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The exported file, its parity, and its race against the original."""

    artifact: Artifact
    parity: tuple[ParityResult, ...]
    latency: LatencyComparison | None
    operators: OperatorComparison | None = None


def deliver(
    folder: Path,
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    data: DataSplits,
    exporter: Exporter,
    device: Device,
    profile: TargetProfile,
    evaluation: Evaluation,
    watch: Stopwatch,
    *,
    plan: Plan,
    metadata: Mapping[str, str],
    seed: int,
    with_latency: bool,
    original_file: Path | None = None,
    held: Mapping[int, str],
) -> Delivery:
    """Export, check parity and accuracy of the file, and race it against the original.

    Nothing is judged here: a file that is not what torch says is written and told of.

    Args:
        metadata: Texts for the file.
        original_file: The original, where it was exported before.
        held: By index of a group that the user keeps whole: the option.
    """
    names = tensor_names(graph, plan.is_input_named)
    inputs = graph.inputs.arranged(data.calibration)
    file = folder / f"{NETWORK_FILE}{exporter.file_suffix}"
    with watch.stage("export") as stage:
        artifact = exporter.export(
            shrunk, graph.example_inputs, file,
            dynamic_batch=graph.has_dynamic_batch, metadata=metadata, names=names,
        )  # fmt: skip
        stage.note(f"{artifact.size_bytes / 1e6:.1f} MB")
    with watch.stage("parity"):
        runner = exporter.open(file, profile)
        parity = _parity(
            runner, file.name, graph, shrunk, inputs, profile, graph.outputs.task.informed(data)
        )
    evaluation.add("exported", runner)
    runner.close()
    if not with_latency:
        return Delivery(artifact, parity, None)
    with tempfile.TemporaryDirectory() as scratch:
        batch = profile.batch if graph.has_dynamic_batch else graph.inputs.batch
        arrays = tuple(tensor.numpy() for tensor in repeated(inputs, 0, batch))
        with watch.stage("latency") as stage:
            original = original_file or Path(scratch) / f"original{exporter.file_suffix}"
            files = (original, file)
            try:
                if original_file is None:
                    exporter.export(
                        graph.module, graph.example_inputs, original,
                        dynamic_batch=graph.has_dynamic_batch, metadata={}, names=names,
                    )  # fmt: skip
                latency = device.compare(*files, arrays, profile, seed=seed)
            except (ExportError, MeasurementError) as error:  # the network is finished
                watch.warn(f"the file that is written was not measured: {error}")
                return Delivery(artifact, parity, None)
            stage.note(NO_CLAIM if latency.is_too_busy else f"{latency.speedup:.2f}x")
        operators = time_operators(
            files, arrays, graph, graph.removed_mask(plan.removed), latency,
            profiler=profiler_on(device, exporter), profile=profile, held=held, watch=watch,
        )  # fmt: skip
    return Delivery(artifact, parity, latency, operators)


def tensor_names(graph: UnitGraph, is_input_named: bool) -> TensorNames:
    """What the file's inputs, outputs and axes are called.

    Args:
        is_input_named: Whether the user has named the inputs; else a single one is ``input``.
    """
    names = graph.inputs.names
    return TensorNames(
        inputs=names if is_input_named or len(names) > 1 else ("input",),
        outputs=graph.outputs.names,
        sizes=tuple(
            {
                dim: size
                for dim, size in enumerate(spec.sizes, start=1)
                if isinstance(size, VaryingSize)
            }
            for spec in graph.inputs.specs
        ),
    )


def _parity(
    runner: Runner,
    artifact: str,
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    profile: TargetProfile,
    task: Task,
) -> tuple[ParityResult, ...]:
    """On the calibration images, and on random inputs of another size where sizes vary."""
    batches = (1, 3) if graph.has_dynamic_batch else (graph.inputs.batch,)
    compare = partial(
        check_parity, runner, shrunk, artifact,
        batches=batches, limit=profile.parity_limit,
        max_column_error=tolerance_of(profile.precision, profile.parity_limit).max_column_error,
        main_output=graph.outputs.main, task=task,
    )  # fmt: skip
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
