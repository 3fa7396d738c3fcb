"""Turns what a race found, here or on another device, into records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fairdeploy.deployment.latency.race import NOISY_SPREAD, Measured, RaceResult, relative_spread
from fairdeploy.records import (
    CallTimes,
    DeviceRecord,
    IdleGapComparison,
    LatencyComparison,
    LatencyMeasurement,
    LatencyStats,
    TargetProfile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


TOO_BUSY = 5.0
"""An interval so many times as wide as the target asks for says that the machine was too busy."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what the networks ran."""

    providers: tuple[str, ...]
    threads: int
    batch: int
    device: DeviceRecord


def device_record(
    facts: Mapping[str, Any],
    *,
    load_before: float | None,
    load_after: float | None,
    versions: Mapping[str, str],
) -> DeviceRecord:
    """The record of ``device_facts`` and of what was seen around the measurement."""
    return DeviceRecord(
        **facts, load_before=load_before, load_after=load_after, versions=dict(versions)
    )


def comparison_record(
    measured: Measured, profile: TargetProfile, terms: Terms
) -> LatencyComparison:
    """The race of two networks."""
    race = measured.back_to_back
    load = terms.device.load_before
    return LatencyComparison(
        target=profile.name,
        batch=terms.batch,
        original=_stats(measured, 0),
        shrunk=_stats(measured, 1),
        speedup=race.interval.value,
        speedup_low=race.interval.low,
        speedup_high=race.interval.high,
        stopped_because=race.stopped_because,
        providers=terms.providers,
        threads=terms.threads,
        load_average=float("nan") if load is None else load,
        is_noisy=_is_noisy(race),
        idle_gap=_idle_gap(measured.with_gaps, profile),
        device=terms.device,
        is_too_busy=race.interval.relative_width > TOO_BUSY * profile.ratio_interval,
    )


def measurement_record(
    measured: Measured, profile: TargetProfile, terms: Terms
) -> LatencyMeasurement:
    """One network alone."""
    race, gaps = measured.back_to_back, measured.with_gaps
    return LatencyMeasurement(
        target=profile.name,
        batch=terms.batch,
        stats=_stats(measured, 0),
        median_low_ms=race.interval.low,
        median_high_ms=race.interval.high,
        stopped_because=race.stopped_because,
        providers=terms.providers,
        threads=terms.threads,
        is_noisy=_is_noisy(race),
        idle_gap_ms=profile.idle_gap_ms,
        idle_gap=_call_times(gaps.times_ms[0]) if gaps else None,
        device=terms.device,
    )


def _idle_gap(race: RaceResult | None, profile: TargetProfile) -> IdleGapComparison | None:
    if race is None or profile.idle_gap_ms is None:
        return None
    original, shrunk = (_call_times(times) for times in race.times_ms)
    ends = race.interval.value, race.interval.low, race.interval.high
    return IdleGapComparison(profile.idle_gap_ms, original, shrunk, *ends)


def _stats(measured: Measured, index: int) -> LatencyStats:
    times_ms = measured.back_to_back.times_ms[index]
    return LatencyStats(*_percentiles(times_ms), measured.cold_start_ms[index], times_ms)


def _call_times(times_ms: tuple[float, ...]) -> CallTimes:
    return CallTimes(*_percentiles(times_ms), times_ms)


def _percentiles(times_ms: Sequence[float]) -> tuple[float, float, float]:
    median, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    return median, p90, p99


def _is_noisy(race: RaceResult) -> bool:
    return any(relative_spread(times) > NOISY_SPREAD for times in race.times_ms)
