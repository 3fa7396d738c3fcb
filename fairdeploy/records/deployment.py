"""The target, what was written for it, and what was measured there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairdeploy.records.surgery import AccuracyEstimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fairdeploy.input_specs import VaryingSize


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
    channel_multiple: int
    """Channel counts that are multiples of this run faster; 1: any count."""
    warmup_seconds: float
    min_pairs: int
    max_seconds: float
    ratio_interval: float
    """Stop once the 95 % interval of the ratio is narrower than this share of it."""
    parity_limit: float


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

    @property
    def passed(self) -> bool:
        """Whether the error is a number and within the limit."""
        return self.max_relative_error <= self.limit


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Milliseconds per call (not per image) of one network."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    cold_start_ms: float
    """Opening the file and the first call."""
    raw_ms: tuple[float, ...]


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


@dataclass(frozen=True, slots=True)
class AccuracyByStage:
    """Accuracy on the same test images along the run; None where it was not measured."""

    original: AccuracyEstimate | None = None
    pruned: AccuracyEstimate | None = None
    """After removal, before recovery."""
    recovered: AccuracyEstimate | None = None
    exported: AccuracyEstimate | None = None
    """Of the exported file, through the target's runtime."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``report.json`` as a plain dictionary tree plus what only the HTML page draws."""

    document: Mapping[str, Any]
    tod_curves: Mapping[str, NDArray[np.float64]]
    latency: LatencyComparison | None
