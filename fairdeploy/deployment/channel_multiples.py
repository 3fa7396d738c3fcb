"""Which channel counts pay on the target: a small sweep, once a device.

Kernels work in blocks of channels, so time is a staircase in the channel count, and a count between
two steps pays for the next one. To see how wide the steps are, each count's time is divided by the
parabola through the multiples of 32 (32, 64, 96): a layer's work is a constant, a part that grows
with the width, and one that grows with its square. Counts fall into classes by the largest power
of two in them; a class's cost is the mean of its counts. If a plan's counts are multiples of m, all
classes from m up come up as often as among the natural numbers: half of the multiples of m are odd
multiples, a quarter have one more factor of two, and so on. The smallest multiple within 3 % of the
best is chosen: a finer grid leaves the choice of channels more freedom.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from fairdeploy.deployment.channel_sweep import COUNTS, FEW_COUNTS, sweep_widths
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.device_facts import device_facts
from fairdeploy.records import MultipleChoice, MultipleCost, TargetProfile, WidthTime

MULTIPLES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 0.03
"""Above the best cost, what a finer grid may cost."""

_FORMAT = 1
"""Raise when the sweep or the choice changes."""

Sweep = Callable[[Exporter, TargetProfile], Sequence[WidthTime]]


def measured_multiple(
    exporter: Exporter, profile: TargetProfile, cache_folder: Path, *, sweep: Sweep = sweep_widths
) -> MultipleChoice:
    """The channel multiple for this target, from the cache or measured now.

    Args:
        exporter: Writes and opens the files of the sweep.
        profile: The target.
        cache_folder: Sweeps are kept here; a damaged file is measured again.
        sweep: Measures; for tests.

    Raises:
        ExportError: The exporter cannot write or run the files.
    """
    cached = cached_multiple(profile, cache_folder)
    if cached is not None:
        return cached
    started = time.perf_counter()
    rows = tuple(sweep(exporter, profile))
    seconds = time.perf_counter() - started
    _write(_cache_file(profile, cache_folder), rows, seconds)
    return choose_multiple(rows, seconds=seconds)


def cached_multiple(profile: TargetProfile, cache_folder: Path) -> MultipleChoice | None:
    """What an earlier sweep for this target found on this device, or None."""
    stored = _read(_cache_file(profile, cache_folder))
    return choose_multiple(stored[0], seconds=stored[1], is_cached=True) if stored else None


def choose_multiple(
    rows: Sequence[WidthTime], *, seconds: float = 0.0, is_cached: bool = False
) -> MultipleChoice:
    """The smallest multiple whose cost is within 3 % of the best.

    Args:
        rows: Some of each class, and three multiples of 32 among them.
        seconds: That the sweep took.
        is_cached: Whether that was in an earlier run.
    """
    classes = _costs_by_class(rows)
    costs = [MultipleCost(multiple, _cost(multiple, classes)) for multiple in MULTIPLES]
    best = min(cost.relative_cost for cost in costs)
    chosen = next(cost.multiple for cost in costs if cost.relative_cost <= (1 + TOLERANCE) * best)
    return MultipleChoice(chosen, tuple(rows), tuple(costs), is_cached, seconds)


def _costs_by_class(rows: Sequence[WidthTime]) -> dict[int, float]:
    """Mean cost of the counts whose largest power of two (up to 32) is the key."""
    coarsest = MULTIPLES[-1]
    anchors = [row for row in rows if row.channels % coarsest == 0]
    smooth_curve = np.poly1d(
        np.polyfit([row.channels for row in anchors], [row.ms for row in anchors], 2)
    )
    found: dict[int, list[float]] = {}
    for row in rows:
        # the lowest set bit is the largest power of two that divides a number
        power = min(row.channels & -row.channels, coarsest)
        found.setdefault(power, []).append(row.ms / float(smooth_curve(row.channels)))
    return {power: mean(costs) for power, costs in found.items()}


def _cost(multiple: int, classes: Mapping[int, float]) -> float:
    """Mean over the multiples of ``multiple``, each class as often as it comes up."""
    finer = [power for power in MULTIPLES if power >= multiple]
    weights = [multiple / power / 2 for power in finer[:-1]]
    weights.append(1 - sum(weights))
    return sum(weight * classes[power] for weight, power in zip(weights, finer, strict=True))


def _cache_file(profile: TargetProfile, folder: Path) -> Path:
    """One file for each device, runtime and way to run."""
    facts = device_facts()
    key = {
        "format": _FORMAT,
        "device": [facts["cpu"], facts["machine"], facts["cores"]],
        "versions": _versions(profile.runtime),
        "profile": [
            profile.runtime, profile.providers, profile.precision, profile.batch, profile.threads,
            profile.affinity,
        ],
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"multiples-{name}.json"


def _versions(runtime: str) -> list[str]:
    """Of all installed packages with the runtime in their name (``onnx``: ``onnxruntime``, …)."""
    found = {(package.name or "").lower(): package.version for package in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if runtime in name)


def _read(path: Path) -> tuple[tuple[WidthTime, ...], float] | None:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(WidthTime(int(row["channels"]), float(row["ms"])) for row in content["rows"])
        seconds = float(content["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_whole = tuple(row.channels for row in rows) in (COUNTS, FEW_COUNTS)
    return (rows, seconds) if is_whole and all(0 < row.ms < math.inf for row in rows) else None


def _write(path: Path, rows: Sequence[WidthTime], seconds: float) -> None:
    """Store a sweep; a folder that cannot be written costs the cache, not the run."""
    text = json.dumps({"rows": [asdict(row) for row in rows], "seconds": seconds})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
