"""A device whose latency is made of the file that it is given, so that a test knows the answer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from fairdeploy.deployment.exporter_api import Array
from fairdeploy.errors import DeviceLostError
from fairdeploy.records import LatencyComparison, LatencyStats, OperatorTime, TargetProfile
from fairdeploy.runs import run
from fairdeploy.runs.search import trials as latency_trials
from fairdeploy_onnx.node_sources import SOURCE_KEY


def weight_count(path: Path) -> int:
    """Numbers in all weights of an ONNX file, each as often as a node reads it."""
    return sum(count for _, count in _weights_by_node(path))


def _weights_by_node(path: Path) -> Iterator[tuple[onnx.NodeProto, int]]:
    graph = onnx.load(path).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        yield node, sum(sizes.get(name, 0) for name in node.input)


class SizedProfiler:
    """Takes each operator to last as long as the device would."""

    def operator_times(
        self, path: Path, inputs: tuple[Array, ...], profile: TargetProfile, *, num_runs: int = 20
    ) -> tuple[OperatorTime, ...]:
        return tuple(
            OperatorTime(node.name, node.op_type, _source(node), count / 1e3, ())
            for node, count in _weights_by_node(path)
        )


def _source(node: onnx.NodeProto) -> str:
    return next(item.value for item in node.metadata_props if item.key == SOURCE_KEY)


class SizedDevice:
    """Takes 1 microsecond a weight, and stops answering after so many races."""

    def __init__(self, lost_after: int | None = None) -> None:
        self.lost_after = lost_after
        self.num_races = 0

    def compare(
        self,
        original: Path,
        shrunk: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        seed: int,
        decide_ratio: float | None = None,
    ) -> LatencyComparison:
        if self.num_races == self.lost_after:
            raise DeviceLostError("device 'pi' stopped answering")
        self.num_races += 1
        before, after = (weight_count(path) / 1e3 for path in (original, shrunk))
        return LatencyComparison(
            target=profile.name, batch=len(inputs[0]), original=_stats(before),
            shrunk=_stats(after), speedup=before / after, speedup_low=before / after,
            speedup_high=before / after, stopped_because="it is exact", providers=("Sized",),
            threads=1, load_average=0.0, is_noisy=False,
        )  # fmt: skip


def measure_on_sized_device(monkeypatch: pytest.MonkeyPatch) -> SizedDevice:
    """Let whole runs race their files, and time operators, on such a device."""
    made = SizedDevice()

    @contextlib.contextmanager
    def measuring_device(*_: object) -> Iterator[SizedDevice]:
        yield made

    monkeypatch.setattr(run, "measuring_device", measuring_device)
    monkeypatch.setattr(latency_trials, "profiler_on", lambda *_: SizedProfiler())
    return made


def _stats(ms: float) -> LatencyStats:
    return LatencyStats(ms, ms, ms, ms, (ms,) * 20)
