"""How much faster the shrunk network is: both run in turn in one process, with an interval.

Two separate measurements drift apart with clocks, heat and other load. Pairs in random order share
all of that, so the ratio of medians holds still long before the milliseconds do.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Array, Runner
from fairdeploy.errors import MeasurementError
from fairdeploy.records import LatencyComparison, LatencyStats, TargetProfile

Clock = Callable[[], int]
"""Nanoseconds, monotonic."""

MIN_PAIRS = 20
"""Percentiles of fewer calls mean nothing."""
MAX_PAIRS = 5000
"""Network pairs so fast or so unsteady that more would only cost memory."""
NOISY_SPREAD = 0.15
"""Interquartile range over median above which a measurement is flagged."""

_WARMUP_WINDOW = 10
_STATIONARY_CHANGE = 0.05
_PAIRS_BETWEEN_CHECKS = 10
_GROWTH_BETWEEN_CHECKS = 0.25
_NUM_RESAMPLES = 1000
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class SpeedupInterval:
    """Ratio of medians, original over shrunk, with its 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float

    @property
    def relative_width(self) -> float:
        """Width of the interval as a share of the ratio."""
        return (self.high - self.low) / self.ratio


@dataclass(slots=True)
class _Contestant:
    """An open network, its inputs and its times so far."""

    runner: Runner
    inputs: tuple[Array, ...]
    clock: Clock
    cold_start_ms: float
    times_ms: list[float] = field(default_factory=list)

    def time_call(self) -> float:
        """Milliseconds of one call."""
        start = self.clock()
        self.runner.run(self.inputs)
        return (self.clock() - start) / _NS_PER_MS


def compare_latency(
    open_original: Callable[[], Runner],
    open_shrunk: Callable[[], Runner],
    inputs: tuple[Array, ...],
    profile: TargetProfile,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
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
        original = _start(open_original, inputs, clock, stack)
        shrunk = _start(open_shrunk, inputs, clock, stack)
        _require_equal_terms(original.runner, shrunk.runner)
        with _no_garbage_collection():
            _warm_up((original, shrunk), clock, profile.warmup_seconds)
            interval, reason = _race(original, shrunk, profile, seed, clock)
        return LatencyComparison(
            target=profile.name,
            batch=int(inputs[0].shape[0]),
            original=_stats(original),
            shrunk=_stats(shrunk),
            speedup=interval.ratio,
            speedup_low=interval.low,
            speedup_high=interval.high,
            stopped_because=reason,
            providers=shrunk.runner.providers,
            threads=shrunk.runner.threads,
            load_average=load_average,
            is_noisy=any(_relative_spread(item.times_ms) > NOISY_SPREAD
                         for item in (original, shrunk)),
        )  # fmt: skip


def bootstrap_speedup(
    original_ms: NDArray[np.float64],
    shrunk_ms: NDArray[np.float64],
    rng: np.random.Generator,
    num_resamples: int = _NUM_RESAMPLES,
) -> SpeedupInterval:
    """Ratio of medians with a 95 % percentile-bootstrap interval.

    Pairs are drawn together, in blocks of neighbours (Kuensch 1989): slow spells last for many
    calls, and drawing single pairs would take them for independent.

    Raises:
        MeasurementError: A median is 0 ms, so the clock cannot see the network.
    """
    medians = float(np.median(original_ms)), float(np.median(shrunk_ms))
    if min(medians) <= 0:
        raise MeasurementError(
            "the clock cannot resolve one call (median 0 ms); use a larger batch"
        )
    drawn = _drawn_blocks(len(original_ms), num_resamples, rng)
    ratios = np.median(original_ms[drawn], axis=1) / np.median(shrunk_ms[drawn], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return SpeedupInterval(medians[0] / medians[1], float(low), float(high))


def _drawn_blocks(count: int, num_resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of resampled pairs, [num_resamples, count]; blocks wrap around at the end."""
    length = math.ceil(count ** (1 / 3))
    starts = rng.integers(0, count, size=(num_resamples, math.ceil(count / length), 1))
    blocks = (starts + np.arange(length)) % count
    return blocks.reshape(num_resamples, -1)[:, :count]


def _start(
    open_runner: Callable[[], Runner], inputs: tuple[Array, ...], clock: Clock, stack: ExitStack
) -> _Contestant:
    start = clock()
    runner = open_runner()
    stack.callback(runner.close)
    runner.run(inputs)
    return _Contestant(runner, inputs, clock, (clock() - start) / _NS_PER_MS)


def _require_equal_terms(original: Runner, shrunk: Runner) -> None:
    ours, theirs = (original.providers, original.threads), (shrunk.providers, shrunk.threads)
    if ours != theirs:
        raise MeasurementError(
            f"the original runs on {ours[0]} with {ours[1]} threads, the shrunk network on "
            f"{theirs[0]} with {theirs[1]}; both must run alike to be compared"
        )


def _warm_up(contestants: tuple[_Contestant, ...], clock: Clock, max_seconds: float) -> None:
    """Call all in turn until the last window's median is near the one before, or time is up."""
    deadline = clock() + max_seconds * _NS_PER_S
    times: list[list[float]] = [[] for _ in contestants]
    while True:
        for contestant, own in zip(contestants, times, strict=True):
            own.append(contestant.time_call())
        if clock() >= deadline or all(_is_stationary(own) for own in times):
            return


def _is_stationary(times_ms: list[float]) -> bool:
    if len(times_ms) < 2 * _WARMUP_WINDOW:
        return False
    before = np.median(times_ms[-2 * _WARMUP_WINDOW : -_WARMUP_WINDOW])
    last = np.median(times_ms[-_WARMUP_WINDOW:])
    return bool(abs(last - before) <= _STATIONARY_CHANGE * before)


def _race(
    original: _Contestant, shrunk: _Contestant, profile: TargetProfile, seed: int, clock: Clock
) -> tuple[SpeedupInterval, str]:
    """Time pairs into both contestants; the interval, and why it stopped."""
    rng = np.random.default_rng(seed)
    deadline = clock() + profile.max_seconds * _NS_PER_S
    next_check = profile.min_pairs
    while True:
        _time_pair(original, shrunk, rng)
        count = len(original.times_ms)
        is_late = count >= MIN_PAIRS and clock() >= deadline
        if not (is_late or count >= next_check):
            continue
        interval = bootstrap_speedup(
            np.asarray(original.times_ms), np.asarray(shrunk.times_ms), rng
        )
        reason = _reason_to_stop(interval, count, is_late, profile)
        if reason is not None:
            return interval, reason
        next_check = count + max(_PAIRS_BETWEEN_CHECKS, int(count * _GROWTH_BETWEEN_CHECKS))
        _refill_caches(original, shrunk)


def _time_pair(original: _Contestant, shrunk: _Contestant, rng: np.random.Generator) -> None:
    """Both once; a coin decides who is first, since the second finds the other's cache lines."""
    for contestant in (original, shrunk) if rng.integers(2) else (shrunk, original):
        contestant.times_ms.append(contestant.time_call())


def _refill_caches(original: _Contestant, shrunk: _Contestant) -> None:
    """One untimed pair: the resampling before it has emptied the caches."""
    original.time_call()
    shrunk.time_call()


def _reason_to_stop(
    interval: SpeedupInterval, count: int, is_late: bool, profile: TargetProfile
) -> str | None:
    if count >= profile.min_pairs and interval.relative_width <= profile.ratio_interval:
        return f"interval narrower than {profile.ratio_interval:.0%} after {count} pairs"
    if is_late:
        return f"{profile.max_seconds:g} s passed after {count} pairs"
    if count >= MAX_PAIRS:
        return f"{count} pairs timed"
    return None


def _stats(contestant: _Contestant) -> LatencyStats:
    median, p90, p99 = np.percentile(contestant.times_ms, (50, 90, 99))
    return LatencyStats(
        median_ms=float(median),
        p90_ms=float(p90),
        p99_ms=float(p99),
        cold_start_ms=contestant.cold_start_ms,
        raw_ms=tuple(contestant.times_ms),
    )


def _relative_spread(times_ms: list[float]) -> float:
    low, median, high = np.percentile(times_ms, (25, 50, 75))
    return float((high - low) / median)


def _load_average() -> float:
    """Processes that wanted a core in the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection inside a timed call would count as the network's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
