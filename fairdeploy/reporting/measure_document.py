"""The document of ``fairdeploy measure``: files, inputs, and a row for each measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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


def measure_document(
    files: Sequence[Path],
    signature: Sequence[InputSignature],
    profile: TargetProfile,
    rows: Sequence[dict[str, Any]],
    host: str | None,
) -> dict[str, Any]:
    """The tree of ``--json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "target": asdict(profile),
        "host": host,
        "files": [
            {"path": str(path), "size_bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        ],
        "inputs": [asdict(one) for one in signature],
        "rows": list(rows),
    }


def measure_row(result: LatencyMeasurement | LatencyComparison) -> dict[str, Any]:
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
        network = _network(result.stats, result.batch, *gaps, result.stats.median_ms)
        return common | {"first": network | interval}
    idle = result.idle_gap
    first_ms, second_ms = result.typical_ms
    gap_ms, first, second = (idle.gap_ms, idle.original, idle.shrunk) if idle else (None,) * 3
    return common | {
        "first": _network(result.original, result.batch, gap_ms, first, first_ms),
        "second": _network(result.shrunk, result.batch, gap_ms, second, second_ms),
        "speedup": _interval(result.speedup, result.speedup_low, result.speedup_high),
        "is_too_busy": result.is_too_busy,
        "idle_gap_speedup": _interval(idle.speedup, idle.speedup_low, idle.speedup_high)
        if idle
        else None,
    }


def _network(
    stats: LatencyStats, batch: int, gap_ms: float | None, idle: CallTimes | None, ms: float
) -> dict[str, Any]:
    """One network; ``ms`` of two have the quotient that is claimed of them."""
    return {
        "ms": ms,
        **_times(stats),
        "cold_start_ms": stats.cold_start_ms,
        "images_per_second": batch * _MS_PER_S / ms,
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
