"""Which channel counts pay on the target: a small sweep, once a device.

Kernels work in blocks of channels, so time is a staircase in the channel count, and a count between
two steps pays for the next one. To see how wide the steps are, each count's time is divided by the
parabola through the multiples of 32 (32, 64, 96): a layer's work is a constant, a part that grows
with the width, and one that grows with its square. Counts fall into classes by the largest power
of two in them; a class's cost is the mean of its counts. If a plan's counts are multiples of m, all
classes from m up come up as often as among the natural numbers: half of the multiples of m are odd
multiples, a quarter have one more factor of two, and so on.

The sweep is made several times with newly opened files, and each gives every multiple's cost. The
usual multiple stays unless these agree, by Student's 95 % interval of their ratio, that a coarser
one saves more than 3 %, or that a finer one costs less than 3 %: a finer grid leaves the choice of
channels more freedom. So a busy machine changes nothing: a sweep that can't tell counts as none and
is not kept.
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
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.devices.device_facts import device_facts
from fairdeploy.deployment.devices.gpu_facts import survey_gpus
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency.channel_sweep import COUNTS, FEW_COUNTS, sweep_widths
from fairdeploy.errors import MeasurementError
from fairdeploy.records import (
    UNMEASURED_MULTIPLE,
    MultipleChoice,
    MultipleCost,
    TargetProfile,
    WidthTime,
)

MULTIPLES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 0.03
"""What a finer grid may cost."""

_FORMAT = 2
"""Raise when the sweep or the choice changes."""

# Student's 97.5 % quantile by degrees of freedom: Abramowitz and Stegun, table 26.10.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}

Rows = Sequence[WidthTime]
Sweep = Callable[[Exporter, TargetProfile], Sequence[Rows]]
"""The times of all widths, once for each time that the files were opened."""


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
        MeasurementError: The sweep cannot tell.
    """
    cached = cached_multiple(profile, cache_folder)
    if cached is not None:
        return cached
    started = time.perf_counter()
    sweeps = sweep(exporter, profile)
    seconds = time.perf_counter() - started
    choice = choose_multiple(sweeps, seconds=seconds)
    if not choice.is_certain:
        raise MeasurementError(
            "its sweeps disagree by more than the multiples differ; the machine may be busy"
        )
    _write(_cache_file(profile, cache_folder), sweeps, seconds)
    return choice


def cached_multiple(profile: TargetProfile, cache_folder: Path) -> MultipleChoice | None:
    """What an earlier sweep for this target found on this device, or None."""
    stored = _read(_cache_file(profile, cache_folder))
    if stored is None:
        return None
    try:
        choice = choose_multiple(stored[0], seconds=stored[1], is_cached=True)
    except MeasurementError:
        return None
    return choice if choice.is_certain else None


def choose_multiple(
    sweeps: Sequence[Rows], *, seconds: float = 0.0, is_cached: bool = False
) -> MultipleChoice:
    """The usual multiple, or the one that all sweeps say is better by 3 %.

    Args:
        sweeps: Each with some counts of each class, and three multiples of 32 among them.
        seconds: That they took.
        is_cached: Whether that was in an earlier run.

    Raises:
        MeasurementError: A slow moment fell into a sweep, so that its times mean nothing.
    """
    classes = [_costs_by_class(rows) for rows in sweeps]
    # logarithms, shape [sweeps, multiples]
    costs = np.log([[_cost(multiple, own) for multiple in MULTIPLES] for own in classes])
    place, is_certain = _chosen(costs)
    rows = tuple(
        WidthTime(same[0].channels, median(row.ms for row in same))
        for same in zip(*sweeps, strict=True)
    )
    low, value, high = np.exp(_interval(costs - costs[:, -1:]))
    return MultipleChoice(
        multiple=MULTIPLES[place],
        rows=rows,
        costs=tuple(
            MultipleCost(multiple, *map(float, cost))
            for multiple, *cost in zip(MULTIPLES, value, low, high, strict=True)
        ),
        is_certain=is_certain,
        is_cached=is_cached,
        seconds=seconds,
    )


def _chosen(costs: NDArray[np.float64]) -> tuple[int, bool]:
    """Place of the chosen multiple in ``MULTIPLES``, and whether the sweeps could tell.

    Args:
        costs: Logarithms, shape [sweeps, multiples].
    """
    limit = math.log(1 + TOLERANCE)
    usual = place = MULTIPLES.index(UNMEASURED_MULTIPLE)

    def saved(place: int) -> NDArray[np.float64]:
        """By coarser ones: low end, mean and high end."""
        return _interval(costs[:, place : place + 1] - costs[:, place + 1 :])

    while place < len(MULTIPLES) - 1 and (saved(place)[0] > limit).any():
        place += 1
    if place == usual:
        low, _, high = _interval(costs[:, :usual] - costs[:, usual:][:, :1])
        good = np.flatnonzero(high <= limit)
        if len(good):
            return int(good[0]), True
        is_certain = bool((low > limit).all() and (saved(place)[2] <= limit).all())
        return place, is_certain
    return place, bool((saved(place)[2] <= limit).all())


def _interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Low end, mean and high end of each column, shape [3, columns]; one row tells nothing."""
    count = len(values)
    middle = values.mean(axis=0)
    if count < 2:
        half = np.full_like(middle, math.inf)
    else:
        half = _STUDENT[min(count - 1, max(_STUDENT))] * values.std(axis=0, ddof=1)
        half = half / math.sqrt(count)
    return np.stack([middle - half, middle, middle + half])


def _costs_by_class(rows: Rows) -> dict[int, float]:
    """Mean cost of the counts whose largest power of two (up to 32) is the key."""
    coarsest = MULTIPLES[-1]
    anchors = [row for row in rows if row.channels % coarsest == 0]
    smooth_curve = np.poly1d(
        np.polyfit([row.channels for row in anchors], [row.ms for row in anchors], 2)
    )
    if any(row.ms <= 0 or not smooth_curve(row.channels) > 0 for row in rows):
        raise MeasurementError("a slow moment fell into its sweep; the machine may be busy")
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
        "device": [facts["cpu"], facts["machine"], facts["cores"], *_gpus(profile)],
        "versions": _versions(profile.runtime),
        "profile": [
            profile.runtime, profile.providers, profile.precision, profile.batch, profile.threads,
            profile.affinity,
        ],
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"multiples-{name}.json"


def _gpus(profile: TargetProfile) -> list[str]:
    """Names of the GPUs, where the profile may run on one."""
    if all("CPU" in provider for provider in profile.providers):
        return []
    return [gpu.name for gpu in survey_gpus().gpus]


def _versions(runtime: str) -> list[str]:
    """Of all installed packages with the runtime in their name (``onnx``: ``onnxruntime``, …)."""
    found = {(package.name or "").lower(): package.version for package in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if runtime in name)


def _read(path: Path) -> tuple[tuple[tuple[WidthTime, ...], ...], float] | None:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        sweeps = tuple(
            tuple(WidthTime(int(row["channels"]), float(row["ms"])) for row in rows)
            for rows in content["sweeps"]
        )
        seconds = float(content["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    widths = {tuple(row.channels for row in rows) for rows in sweeps}
    is_whole = len(widths) == 1 and widths <= {COUNTS, FEW_COUNTS}
    times = [row.ms for rows in sweeps for row in rows]
    return (sweeps, seconds) if is_whole and all(0 < ms < math.inf for ms in times) else None


def _write(path: Path, sweeps: Sequence[Rows], seconds: float) -> None:
    """Store the sweeps; a folder that cannot be written costs the cache, not the run."""
    stored = [[asdict(row) for row in rows] for rows in sweeps]
    text = json.dumps({"sweeps": stored, "seconds": seconds})
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
