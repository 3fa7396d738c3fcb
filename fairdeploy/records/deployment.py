"""The target, what was written for it, and what was measured there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fairdeploy.records.accuracy import AccuracyEstimate
from fairdeploy.records.allocation import TimedPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fairdeploy.records.input_specs import VaryingSize


UNMEASURED_MULTIPLE = 8
"""Vector units of CPUs and tensor cores of GPUs take eight channels at a time, or a multiple."""


@dataclass(frozen=True, slots=True)
class TargetProfile:
    """The device and runtime that counts (``profiles/*.toml``)."""

    name: str
    description: str
    runtime: str
    """Which exporter's runner opens the file: ``onnx``, ``tensorrt``, …"""
    providers: tuple[str, ...]
    precision: str
    batch: int
    threads: int
    """0: all cores."""
    channel_multiple: int | Literal["auto"]
    """Channel counts that are multiples of this run faster; 1: any count; ``auto``: measured."""
    warmup_seconds: float
    min_pairs: int
    max_seconds: float
    ratio_interval: float
    """Stop once the 95 % interval of the ratio is narrower than this share of it."""
    parity_limit: float
    input_size: tuple[int, int, int] | None = None
    """[C, H, W] of the images; None: the model's own."""
    affinity: tuple[int, ...] = ()
    """Cores that the threads may use; empty: all that the process may."""
    idle_gap_ms: float | None = None
    """If given, calls this far apart are timed too, as a camera makes them."""
    power: str = "as found"
    """In what clock and power mode it is measured; recorded, not set."""
    machine: str | None = None
    """The architecture (``aarch64``) of a device that this machine cannot stand for."""


def default_multiple(profile: TargetProfile) -> int:
    """The profile's channel multiple; 8 where it is to be measured and has not been."""
    if profile.channel_multiple == "auto":
        return UNMEASURED_MULTIPLE
    return profile.channel_multiple


@dataclass(frozen=True, slots=True)
class TensorNames:
    """What the inputs, outputs and varying sizes of an exported file are called."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[Mapping[int, VaryingSize], ...]
    """For each input, its dimensions that vary besides the batch."""


@dataclass(frozen=True, slots=True)
class NetworkDims:
    """The dimensions of a network's tensors, each different one with a number of its own."""

    tensors: Mapping[str, tuple[int, ...]]
    """By name of a parameter or buffer: the number of each of its dimensions."""
    nodes: Mapping[str, tuple[int, ...]]
    """By node: those of its result, then of what it reads."""
    padded: Mapping[str, tuple[tuple[int, int], ...]]
    """By node whose result has the rank of what it reads first: for each dimension, that of what it
    reads and that of its result."""


@dataclass(frozen=True, slots=True)
class BranchCut:
    """A residual branch that a file shall lack; names are those of nodes."""

    total: str
    """The sum that it was an operand of."""
    nodes: frozenset[str]
    """All that belongs to it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was written for deployment. ``path`` is relative to the output folder."""

    path: str
    format: str
    precision: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ParityResult:
    """An artifact against the torch network at one batch size; error relative to output scale."""

    artifact: str
    batch: int
    max_relative_error: float
    limit: float
    top1_agreement: float
    image_size: str = ""
    """Where sizes vary: ``H=192, W=224``."""
    column_error: float = 0.0
    """Of the column that is furthest off, over all outputs, as a share of its own spread."""
    max_column_error: float = math.inf
    worst_column: str = ""

    @property
    def passed(self) -> bool:
        """Whether the errors are numbers and within the limits."""
        is_near = self.max_relative_error <= self.limit
        return is_near and self.column_error <= self.max_column_error

    @property
    def how_far(self) -> str:
        """What is off by how much, against which limit."""
        if self.max_relative_error <= self.limit < math.inf:
            return (
                f"in {self.worst_column} by {self.column_error:.2g} of its own spread at batch "
                f"{self.batch}, limit {self.max_column_error:g}"
            )
        by = (
            f"by {self.max_relative_error:.1e} of the output's scale"
            if math.isfinite(self.max_relative_error)
            else "in shape, or is not a number"
        )
        return f"{by} at batch {self.batch}, limit {self.limit:.0e}"


@dataclass(frozen=True, slots=True)
class InputSignature:
    """An input as an opened file declares it."""

    name: str
    dtype: str
    """As NumPy calls it: ``float32``, ``int64``, ``bool``."""
    sizes: tuple[int | str | None, ...]
    """A number, the name of a size that varies, or None for one without a name."""


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """The machine that measured, and how it was then; None where it does not tell."""

    cpu: str
    machine: str
    """The architecture: ``x86_64``, ``aarch64``."""
    system: str
    python: str
    cores: int
    """That the process may use."""
    governor: str | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    surroundings: str
    """Whether it looks like a container or a virtual machine."""
    load_before: float | None
    """Processes that wanted a core in the minute before."""
    load_after: float | None
    versions: Mapping[str, str]
    """Of the runtime and what it runs on."""


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Milliseconds per call (not per image) of one network."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    raw_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Milliseconds per call (not per image) of one network, calls back to back."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    cold_start_ms: float
    """Opening the file and the first call."""
    raw_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class IdleGapComparison:
    """Original and shrunk with a pause before each call, as a camera makes them."""

    gap_ms: float
    original: CallTimes
    shrunk: CallTimes
    speedup: float
    speedup_low: float
    speedup_high: float


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Original and shrunk in turn in one process; ``speedup`` is original / shrunk."""

    target: str
    batch: int
    original: LatencyStats
    shrunk: LatencyStats
    speedup: float
    speedup_low: float
    speedup_high: float
    stopped_because: str
    providers: tuple[str, ...]
    threads: int
    load_average: float
    is_noisy: bool
    idle_gap: IdleGapComparison | None = None
    device: DeviceRecord | None = None
    is_too_busy: bool = False
    """Whether the interval is too wide for a claim."""

    @property
    def typical_ms(self) -> tuple[float, float]:
        """Milliseconds of original and shrunk that have the ratio of the pairs.

        The two medians share the noise of the race but not its spells, so their own quotient would
        be another speed-up than the one that is claimed.
        """
        level = math.sqrt(self.original.median_ms * self.shrunk.median_ms)
        return level * math.sqrt(self.speedup), level / math.sqrt(self.speedup)

    @property
    def timed_plan(self) -> TimedPlan:
        """The same the other way round: shrunk over original."""
        original_ms, shrunk_ms = self.typical_ms
        return TimedPlan(
            ratio=1 / self.speedup,
            ratio_low=1 / self.speedup_high,
            ratio_high=1 / self.speedup_low,
            original_ms=original_ms,
            shrunk_ms=shrunk_ms,
            is_too_busy=self.is_too_busy,
        )


@dataclass(frozen=True, slots=True)
class LatencyMeasurement:
    """One network alone; low and high are the 95 % interval of its median."""

    target: str
    batch: int
    stats: LatencyStats
    median_low_ms: float
    median_high_ms: float
    stopped_because: str
    providers: tuple[str, ...]
    threads: int
    is_noisy: bool
    idle_gap_ms: float | None
    idle_gap: CallTimes | None
    device: DeviceRecord


@dataclass(frozen=True, slots=True)
class AccuracyByStage:
    """Accuracy on the same test images after each of ``STEPS``; None where it was not measured."""

    original: AccuracyEstimate | None = None
    pruned: AccuracyEstimate | None = None
    """After removal, before recovery."""
    recovered: AccuracyEstimate | None = None
    """After the repair in closed form."""
    distilled: AccuracyEstimate | None = None
    """After the short training without labels."""
    tuned: AccuracyEstimate | None = None
    """After ``--finetune``."""
    exported: AccuracyEstimate | None = None
    """Of the exported file, through the target's runtime."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``report.json`` as a plain dictionary tree plus what only the HTML page draws."""

    document: Mapping[str, Any]
    tod_curves: Mapping[str, NDArray[np.float64]]
    latency: LatencyComparison | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """A machine that measures for us; see ``deployment.remote_device``."""

    host: str
    """``user@device``."""
    port: int | None = None
    python: str = "python3"
    ssh_options: tuple[str, ...] = ()
