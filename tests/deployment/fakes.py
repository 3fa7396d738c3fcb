"""Runners, clocks, plug-ins and profiles whose behaviour a test decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Exporter, Runner
from fairdeploy.errors import DataError
from fairdeploy.records import Artifact, OperatorTime, TargetProfile, TensorNames

PROFILE = TargetProfile(
    name="test-target",
    description="ONNX Runtime on one thread",
    runtime="onnx",
    providers=("CPUExecutionProvider",),
    precision="fp32",
    batch=1,
    threads=1,
    channel_multiple=1,
    warmup_seconds=0.05,
    min_pairs=20,
    max_seconds=1.0,
    ratio_interval=0.05,
    parity_limit=1e-4,
)


def profile(**changes: Any) -> TargetProfile:
    """The test profile with some values changed."""
    return replace(PROFILE, **changes)


class FakeClock:
    """A clock that moves only when a runner says so; a reading costs nothing."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def advance_ms(self, milliseconds: float) -> None:
        self.now_ns += int(milliseconds * 1e6)


class FakeRunner(Runner):
    """Takes the time that ``duration_ms`` gives for the n-th call; remembers its calls."""

    def __init__(
        self,
        clock: FakeClock,
        duration_ms: Callable[[int], float],
        *,
        name: str = "runner",
        log: list[str] | None = None,
        providers: tuple[str, ...] = ("FakeProvider",),
        threads: int = 1,
    ) -> None:
        self.providers = providers
        self.threads = threads
        self.is_closed = False
        self.num_calls = 0
        self._clock = clock
        self._duration_ms = duration_ms
        self._name = name
        self._log = log if log is not None else []

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self._clock.advance_ms(self._duration_ms(self.num_calls))
        self.num_calls += 1
        self._log.append(self._name)
        return inputs

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FunctionRunner(Runner):
    """Runs a NumPy function."""

    function: Callable[[np.ndarray], object]
    providers: tuple[str, ...] = ("FakeProvider",)
    threads: int = 1

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        result = self.function(*inputs)
        return result if isinstance(result, tuple) else (result,)

    def close(self) -> None:
        pass


class WorkingExporter(Exporter):
    """Writes the metadata as text; a model of a plug-in."""

    name = "working"
    file_suffix = ".txt"

    def is_available(self) -> str | None:
        return None

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        path.write_text(str(dict(metadata)))
        return Artifact(path.name, "text", "fp32", "", path.stat().st_size)

    def open(self, path: Path, profile: TargetProfile) -> FunctionRunner:
        return FunctionRunner(lambda x: x)


class UnavailableExporter(WorkingExporter):
    """Its runtime is not installed."""

    name = "unavailable"

    def is_available(self) -> str | None:
        return "exporter 'unavailable' needs libfake; run pip install libfake"


class PickyExporter(WorkingExporter):
    """Says which precisions it can serve."""

    name = "picky"

    def unusable_because(self, profile: TargetProfile) -> str | None:
        return {"fp32": None, "int8": "no int8 here"}[profile.precision]


class FailingExporter(WorkingExporter):
    """Raises what a plug-in may raise."""

    name = "failing"

    def export(self, *arguments: object, **options: object) -> Artifact:
        raise ZeroDivisionError("first line\nsecond line")

    def open(self, path: Path, profile: TargetProfile) -> FunctionRunner:
        if path.name == "ours":
            raise DataError("a message of our own")

        def fail(x: np.ndarray) -> np.ndarray:
            raise MemoryError

        return FunctionRunner(fail)


class IncompleteExporter:
    """Has a name and nothing else."""

    name = "incomplete"


class CrashingExporter:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise OSError("libfake.so: cannot open shared object file")


class ProfilingExporter(WorkingExporter):
    """Tells how long operators take, unless the file is called otherwise."""

    name = "profiling"

    def operator_times(
        self, path: Path, inputs: tuple[Any, ...], profile: TargetProfile, *, num_runs: int = 20
    ) -> tuple[OperatorTime, ...]:
        if path.name == "bad":
            raise KeyError("ts")
        return (OperatorTime("a", "Conv", "conv2d", float(num_runs), (1, 4)),)
