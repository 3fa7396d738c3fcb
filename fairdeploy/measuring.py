"""``fairdeploy measure``: the speed of one ONNX file, or of two against each other, ours or not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fairdeploy.deployment.exporter_api import Array, Exporter, get_exporter
from fairdeploy.deployment.latency import compare_latency, measure_latency
from fairdeploy.deployment.runner_facts import input_signature
from fairdeploy.errors import ExportError, UsageError
from fairdeploy.inputs.made_up_inputs import fixed_batch, make_up_inputs
from fairdeploy.inputs.target_profiles import load_profile
from fairdeploy.options import MeasureOptions
from fairdeploy.progress import Progress, SilentProgress
from fairdeploy.records import (
    CallTimes,
    InputSignature,
    LatencyComparison,
    LatencyMeasurement,
    LatencyStats,
    TargetProfile,
)

SCHEMA_VERSION = 1
_MS_PER_S = 1e3

Measured = LatencyMeasurement | LatencyComparison


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: how many images at a time, on how many threads."""

    profile: TargetProfile
    inputs: tuple[Array, ...]


def measure(options: MeasureOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Measure one file, or race two, at every batch and number of threads that is asked for.

    Returns:
        A dictionary for ``--json``, version 1: ``target``, ``files``, ``inputs`` and ``rows``.

    Raises:
        FairdeployError: A file cannot be opened, the two take different inputs, or an option does
            not fit them.
    """
    watch = progress or SilentProgress()
    profile = measured_profile(options)
    exporter = get_exporter(profile.runtime)
    signature = common_signature(options.files, exporter, profile)
    rows = []
    for cell in cells(options, profile, signature):
        name = f"batch {cell.profile.batch}, {_threads(cell.profile.threads)}"
        with watch.stage(name) as stage:
            result = _measured(options.files, exporter, cell, options.seed)
            stage.note(_note(result))
        rows.append(row(result))
    return document(options.files, signature, profile, rows)


def measured_profile(options: MeasureOptions) -> TargetProfile:
    """The target's profile with what the user has changed."""
    profile = load_profile(options.target)
    if options.seconds is not None:
        profile = replace(
            profile,
            max_seconds=options.seconds,
            warmup_seconds=min(profile.warmup_seconds, options.seconds / 4),
        )
    if options.idle_gap_ms is not None:
        profile = replace(profile, idle_gap_ms=options.idle_gap_ms)
    return profile


def common_signature(
    files: Sequence[Path], exporter: Exporter, profile: TargetProfile
) -> tuple[InputSignature, ...]:
    """What all files take.

    Raises:
        UsageError: They take different inputs.
        ExportError: A file cannot be opened, or the exporter cannot tell what it takes.
    """
    signatures = [_signature(path, exporter, profile) for path in files]
    first, last = (_terms(signature) for signature in (signatures[0], signatures[-1]))
    if first != last:
        raise UsageError(
            f"'{files[0].name}' takes {_text(signatures[0])} and '{files[-1].name}' takes "
            f"{_text(signatures[-1])}; give two files that take the same inputs"
        )
    return signatures[0]


def cells(
    options: MeasureOptions, profile: TargetProfile, signature: tuple[InputSignature, ...]
) -> Iterator[Cell]:
    """All combinations of batch and threads, with their inputs.

    Raises:
        UsageError: The file takes another batch, or lacks a size.
    """
    only = fixed_batch(signature)
    batches = options.batches or ((only,) if only else (profile.batch,))
    wrong = [batch for batch in batches if only not in (None, batch)]
    if wrong:
        raise UsageError(f"batch {wrong[0]} does not fit: the file takes {only} at a time, always")
    arrays = [make_up_inputs(signature, n, options.sizes, seed=options.seed) for n in batches]
    for threads in options.threads or (profile.threads,):
        for batch, inputs in zip(batches, arrays, strict=True):
            yield Cell(replace(profile, batch=batch, threads=threads), inputs)


def document(
    files: Sequence[Path],
    signature: Sequence[InputSignature],
    profile: TargetProfile,
    rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The tree of ``--json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "target": asdict(profile),
        "files": [
            {"path": str(path), "size_bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        ],
        "inputs": [asdict(one) for one in signature],
        "rows": list(rows),
    }


def row(result: Measured) -> dict[str, Any]:
    """One measurement as plain JSON; two networks are ``first`` and ``second``."""
    common = {
        "batch": result.batch,
        "threads": result.threads,
        "providers": list(result.providers),
        "is_noisy": result.is_noisy,
        "stopped_because": result.stopped_because,
        "device": asdict(result.device) if result.device else None,
    }
    if isinstance(result, LatencyMeasurement):
        gaps = (result.idle_gap_ms, result.idle_gap)
        interval = {"low_ms": result.median_low_ms, "high_ms": result.median_high_ms}
        return common | {"first": _network(result.stats, result.batch, *gaps) | interval}
    idle = result.idle_gap
    gap_ms, first, second = (idle.gap_ms, idle.original, idle.shrunk) if idle else (None,) * 3
    return common | {
        "first": _network(result.original, result.batch, gap_ms, first),
        "second": _network(result.shrunk, result.batch, gap_ms, second),
        "speedup": _interval(result.speedup, result.speedup_low, result.speedup_high),
        "idle_gap_speedup": _interval(idle.speedup, idle.speedup_low, idle.speedup_high)
        if idle
        else None,
    }


def _measured(files: Sequence[Path], exporter: Exporter, cell: Cell, seed: int) -> Measured:
    opens = [_opener(exporter, path, cell.profile) for path in files]
    if len(opens) == 1:
        return measure_latency(opens[0], cell.inputs, cell.profile, seed=seed)
    return compare_latency(opens[0], opens[1], cell.inputs, cell.profile, seed=seed)


def _opener(exporter: Exporter, path: Path, profile: TargetProfile) -> Callable[[], Any]:
    return lambda: exporter.open(path, profile)


def _network(
    stats: LatencyStats, batch: int, gap_ms: float | None, idle: CallTimes | None
) -> dict[str, Any]:
    return {
        **_times(stats),
        "cold_start_ms": stats.cold_start_ms,
        "images_per_second": batch * _MS_PER_S / stats.median_ms,
        "idle_gap": {"gap_ms": gap_ms, **_times(idle)} if idle else None,
    }


def _times(times: CallTimes | LatencyStats) -> dict[str, Any]:
    return {
        "median_ms": times.median_ms,
        "p90_ms": times.p90_ms,
        "p99_ms": times.p99_ms,
        "raw_ms": [round(time, 6) for time in times.raw_ms],
    }


def _interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def _signature(
    path: Path, exporter: Exporter, profile: TargetProfile
) -> tuple[InputSignature, ...]:
    runner = exporter.open(path, profile)
    try:
        signature = input_signature(runner)
    finally:
        runner.close()
    if not signature:
        raise ExportError(f"'{path.name}' does not tell what inputs it takes, so none can be made")
    return signature


def _terms(signature: Sequence[InputSignature]) -> list[tuple[str, tuple[int | None, ...]]]:
    """Types and fixed sizes; names may differ, since inputs go by their order."""
    return [
        (one.dtype, tuple(size if isinstance(size, int) else None for size in one.sizes))
        for one in signature
    ]


def _text(signature: Sequence[InputSignature]) -> str:
    """``input float32 [batch, 3, 224, 224]``."""
    return ", ".join(
        f"{one.name} {one.dtype} [{', '.join(str(size or '?') for size in one.sizes)}]"
        for one in signature
    )


def _threads(count: int) -> str:
    return "all cores" if count == 0 else f"{count} thread{'s' if count > 1 else ''}"


def _note(result: Measured) -> str:
    if isinstance(result, LatencyMeasurement):
        return f"{result.stats.median_ms:.3g} ms"
    return f"{result.speedup:.2f}x"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
