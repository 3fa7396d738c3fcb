"""Operators of both files are timed in turn, and a profiler that fails costs a warning only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairdeploy.deployment.devices.local_device import LocalDevice, profiler_on
from fairdeploy.deployment.exporter_api import guarded_exporter
from fairdeploy.errors import DeviceLostError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import LatencyComparison, OperatorComparison, OperatorTime
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.delivery import OperatorTimer
from tests.deployment.fakes import WorkingExporter, profile
from tests.reporting.sample_run import SmallNet, sample_latency

FILES = (Path("original"), Path("shrunk"))


class SlowSpells(WorkingExporter):
    """The first round of the first convolution is slow; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def operator_times(self, path, inputs, profile, *, num_runs=20):
        self.calls.append((path.name, num_runs))
        is_first = len(self.calls) <= 2
        first = {"original": 4.0, "shrunk": 3.5}[path.name] * (5 if is_first else 1)
        return (
            OperatorTime("one", "Conv", "conv2d", first, (1, 8, 8, 8)),
            OperatorTime("two", "Conv", "conv2d_1", 1.0 if is_first else 1.5, (1, 6, 8, 8)),
        )


class Broken(WorkingExporter):
    def operator_times(self, path, inputs, profile, *, num_runs=20):
        raise KeyError("ts")


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return build_unit_graph(SmallNet().eval(), (torch.zeros(2, 3, 8, 8),))


def race(original_ms: float) -> LatencyComparison:
    latency = sample_latency()
    return replace(latency, original=replace(latency.original, median_ms=original_ms))


def timed(
    graph: UnitGraph,
    exporter: WorkingExporter,
    watch: Stopwatch,
    original_ms: float = 5.0,
    **target: Any,
) -> OperatorComparison | None:
    plug_in = guarded_exporter(exporter)
    removed = graph.removed_mask({graph.groups[0].name: (0, 1, 2)})
    profiler = profiler_on(LocalDevice(plug_in), plug_in)
    timer = OperatorTimer(profiler, profile(channel_multiple=4, **target), {}, watch)
    return timer.compare(FILES, (), graph, removed, race(original_ms))


def test_each_operator_counts_with_its_faster_round(graph: UnitGraph) -> None:
    exporter = SlowSpells()
    found = timed(graph, exporter, Stopwatch())
    assert found is not None
    assert [name for name, _ in exporter.calls] == ["original", "shrunk", "original", "shrunk"]
    rows = {row.module: (row.original_ms, row.shrunk_ms) for row in found.operators}
    assert rows == {"first": (4.0, 3.5), "second": (1.0, 1.0)}


def test_causes_know_the_target_s_multiple(graph: UnitGraph) -> None:
    found = timed(graph, SlowSpells(), Stopwatch())
    assert found is not None
    first = found.operators[0]
    assert (first.cause, first.detail) == (
        "misaligned", "5 channels, no multiple of 4"
    )  # fmt: skip


def test_on_a_gpu_a_profile_only_knows_when_operators_are_started(graph: UnitGraph) -> None:
    watch = Stopwatch()
    found = timed(graph, SlowSpells(), watch, runtime="onnx", providers=("CUDAExecutionProvider",))
    assert found is not None
    assert found.operators[0].cause == "launch-bound"
    found = timed(graph, SlowSpells(), watch, runtime="onnx", providers=("CPUExecutionProvider",))
    assert found is not None
    assert found.operators[0].cause == "misaligned"


@pytest.mark.parametrize(("original_ms", "num_runs"), [(5.0, 20), (125.0, 10), (5000.0, 3)])
def test_slow_networks_are_run_less_often(
    graph: UnitGraph, original_ms: float, num_runs: int
) -> None:
    exporter = SlowSpells()
    found = timed(graph, exporter, Stopwatch(), original_ms)
    assert found is not None
    assert {runs for _, runs in exporter.calls} == {num_runs}
    assert found.num_runs == num_runs


def test_a_profiler_that_fails_is_a_warning(graph: UnitGraph) -> None:
    watch = Stopwatch()
    assert timed(graph, Broken(), watch) is None
    assert watch.warnings == [
        "operators were not timed: exporter 'working' could not time the operators of 'original': "
        "KeyError: 'ts'"
    ]


class Lost(WorkingExporter):
    def operator_times(self, path, inputs, profile, *, num_runs=20):
        raise DeviceLostError("'board' does not answer")


def test_a_device_that_is_lost_meanwhile_is_a_warning(graph: UnitGraph) -> None:
    watch = Stopwatch()
    assert timed(graph, Lost(), watch) is None
    assert watch.warnings == ["operators were not timed: 'board' does not answer"]


def test_an_exporter_without_a_profiler_is_passed_over_in_silence(graph: UnitGraph) -> None:
    watch = Stopwatch()
    assert timed(graph, WorkingExporter(), watch) is None
    assert watch.warnings == []
    assert "operators" not in watch.seconds
