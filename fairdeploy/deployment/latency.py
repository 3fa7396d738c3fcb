"""How much faster the shrunk network is: both run in turn in one process, with an interval.

``race`` holds the measuring itself; here are runners and records.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from fairdeploy.deployment.exporter_api import Array, Runner
from fairdeploy.deployment.race import (
    MIN_PAIRS,
    NOISY_SPREAD,
    CoarseClockError,
    RaceResult,
    RaceSettings,
    cold_start,
    race,
    relative_spread,
)
from fairdeploy.errors import MeasurementError
from fairdeploy.records import LatencyComparison, LatencyStats, TargetProfile

if TYPE_CHECKING:
    from fairdeploy.deployment.race import Call, Clock


def compare_latency(
    open_original: Callable[[], Runner],
    open_shrunk: Callable[[], Runner],
    inputs: tuple[Array, ...],
    profile: TargetProfile,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    decide_ratio: float | None = None,
) -> LatencyComparison:
    """Time single calls of both networks, alternating, until the speed-up is known well enough.

    Cold start (opening and the first call) is timed apart. Warm-up ends when both networks are
    stationary or ``profile.warmup_seconds`` have passed. Then pairs are timed, in random order
    within the pair, until the interval of the ratio is narrower than ``profile.ratio_interval`` of
    it, or ``profile.max_seconds`` have passed; never fewer than ``MIN_PAIRS``.

    Args:
        open_original: Opens the original; called once. It also pays for loading the runtime's
            libraries if nothing has used them so far.
        open_shrunk: Opens the shrunk network; called once.
        inputs: One batch, the same for every call.
        profile: Limits of time and precision.
        seed: Decides the order within pairs and the resamples.
        clock: Nanoseconds; for tests.
        decide_ratio: A threshold for shrunk / original time. If given, the race lasts until the
            ratio is known to lie on one side of it, or time is up, whatever the interval's width.

    Raises:
        MeasurementError: ``profile.min_pairs`` is below 20, the networks run on different
            providers or numbers of threads, or the clock is too coarse.
        ExportError: A file cannot be opened or run.
    """
    if profile.min_pairs < MIN_PAIRS:
        raise MeasurementError(
            f"min_pairs {profile.min_pairs} in target '{profile.name}' is too few for percentiles; "
            f"use at least {MIN_PAIRS}"
        )
    load_average = _load_average()
    with ExitStack() as stack:
        runners: list[Runner] = []
        original, original_cold_ms = _start(open_original, inputs, clock, stack, runners)
        shrunk, shrunk_cold_ms = _start(open_shrunk, inputs, clock, stack, runners)
        _require_equal_terms(*runners)
        try:
            result = race(
                (original, shrunk), race_settings(profile, decide_ratio), seed=seed, clock=clock
            )
        except CoarseClockError as error:
            raise MeasurementError(str(error)) from error
        return LatencyComparison(
            target=profile.name,
            batch=int(inputs[0].shape[0]),
            original=_stats(result, 0, original_cold_ms),
            shrunk=_stats(result, 1, shrunk_cold_ms),
            speedup=result.interval.value,
            speedup_low=result.interval.low,
            speedup_high=result.interval.high,
            stopped_because=result.stopped_because,
            providers=runners[1].providers,
            threads=runners[1].threads,
            load_average=load_average,
            is_noisy=any(relative_spread(times) > NOISY_SPREAD for times in result.times_ms),
        )


def race_settings(profile: TargetProfile, decide_ratio: float | None = None) -> RaceSettings:
    """What the profile says of warm-up and stopping."""
    return RaceSettings(
        warmup_seconds=profile.warmup_seconds,
        min_pairs=profile.min_pairs,
        max_seconds=profile.max_seconds,
        ratio_interval=profile.ratio_interval,
        decide_ratio=decide_ratio,
    )


def _start(
    open_runner: Callable[[], Runner],
    inputs: tuple[Array, ...],
    clock: Clock,
    stack: ExitStack,
    runners: list[Runner],
) -> tuple[Call, float]:
    """The call to time and its cold start (appends to ``runners``, closes them with ``stack``)."""

    def open_call() -> Call:
        runner = open_runner()
        stack.callback(runner.close)
        runners.append(runner)
        return lambda: runner.run(inputs)

    return cold_start(open_call, clock)


def _require_equal_terms(original: Runner, shrunk: Runner) -> None:
    ours, theirs = (original.providers, original.threads), (shrunk.providers, shrunk.threads)
    if ours != theirs:
        raise MeasurementError(
            f"the original runs on {ours[0]} with {ours[1]} threads, the shrunk network on "
            f"{theirs[0]} with {theirs[1]}; both must run alike to be compared"
        )


def _stats(result: RaceResult, index: int, cold_start_ms: float) -> LatencyStats:
    times_ms = result.times_ms[index]
    median, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    return LatencyStats(median, p90, p99, cold_start_ms, times_ms)


def _load_average() -> float:
    """Processes that wanted a core in the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
