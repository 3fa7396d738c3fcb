"""Times one or two networks in turn until their speed is known well enough.

This file needs Python 3.8 and numpy, nothing else, so that a copy of it runs on any device. It
imports nothing of fairdeploy; ``latency`` turns what it finds into records.

Two separate measurements drift apart with clocks, heat and other load. Pairs in random order share
all of that, so the ratio of medians holds still long before the milliseconds do.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Clock = Callable[[], int]
    """Nanoseconds, monotonic."""
    Call = Callable[[], object]
    """Runs a network once on its inputs."""

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
_REPORTED = (2.5, 97.5)
_DECIDING = (0.5, 99.5)
"""A decision is looked for again and again; the wider interval keeps 95 % over all these looks."""
_MS_PER_S = 1e3
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


class CoarseClockError(ValueError):
    """A median is 0 ms, so the clock cannot see the network."""


@dataclass(frozen=True)
class RaceSettings:
    """When the warm-up ends, and when the race does."""

    warmup_seconds: float
    min_pairs: int
    """From ``MIN_PAIRS`` up."""
    max_seconds: float
    ratio_interval: float
    """Stop once the 95 % interval is narrower than this share of its value."""
    decide_ratio: float | None = None
    """If given: stop once the interval of second over first lies wholly on one side of this, and
    only then or when time is up."""
    idle_gap_ms: float | None = None
    """Pause before each call of ``race_with_gaps``."""


@dataclass(frozen=True)
class Interval:
    """First median over second (or the only median, in ms), with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    decides_low: float
    """Low end of the wider interval that decides; see ``RaceSettings.decide_ratio``."""
    decides_high: float

    @property
    def relative_width(self) -> float:
        """Width of the 95 % interval as a share of the value."""
        return (self.high - self.low) / self.value

    def excludes(self, value: float) -> bool:
        """Whether the deciding interval lies wholly on one side of ``value``."""
        return not self.decides_low <= value <= self.decides_high


@dataclass(frozen=True)
class RaceResult:
    """Milliseconds of every timed call, by contestant, and what follows from them."""

    times_ms: tuple[tuple[float, ...], ...]
    interval: Interval
    stopped_because: str


@dataclass(frozen=True)
class Measured:
    """One or two networks: cold, back to back, and with a pause before each call if asked for."""

    cold_start_ms: tuple[float, ...]
    back_to_back: RaceResult
    with_gaps: RaceResult | None


def measure(
    opened: Sequence[tuple[Call, float]],
    settings: RaceSettings,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Race what ``cold_start`` opened, then race it with gaps if the settings give one."""
    calls = [call for call, _ in opened]
    back_to_back = race(calls, settings, seed=seed, clock=clock)
    with_gaps = None
    if settings.idle_gap_ms is not None:
        with_gaps = race_with_gaps(calls, settings, seed=seed, clock=clock, sleep=sleep)
    return Measured(tuple(cold_ms for _, cold_ms in opened), back_to_back, with_gaps)


def cold_start(open_call: Callable[[], Call], clock: Clock) -> tuple[Call, float]:
    """The opened network, and the milliseconds that opening and its first call took."""
    start = clock()
    call = open_call()
    call()
    return call, (clock() - start) / _NS_PER_MS


def race(
    calls: Sequence[Call],
    settings: RaceSettings,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
) -> RaceResult:
    """Warm up, then time rounds of one call each until the answer is known well enough.

    Warm-up ends when all are stationary or ``warmup_seconds`` have passed. The race ends when the
    interval is narrow enough (or has decided), or ``max_seconds`` have passed; never before
    ``MIN_PAIRS`` rounds.

    Args:
        calls: One or two opened networks.
        seed: Decides the order within rounds and the resamples.

    Raises:
        CoarseClockError: The clock cannot see one call.
    """
    rng = np.random.default_rng(seed)
    times: list[list[float]] = [[] for _ in calls]
    with _no_garbage_collection():
        _warm_up(calls, clock, settings.warmup_seconds)
        deadline = clock() + settings.max_seconds * _NS_PER_S
        next_check = settings.min_pairs
        while True:
            _time_round(calls, times, rng, clock)
            count = len(times[0])
            is_late = count >= MIN_PAIRS and clock() >= deadline
            if not (is_late or count >= next_check):
                continue
            interval = bootstrap_interval(np.asarray(times), rng)
            timed = f"{count} {'pairs' if len(calls) > 1 else 'calls'}"
            reason = _reason_to_stop(interval, timed, count, is_late, settings)
            if reason is not None:
                return RaceResult(tuple(tuple(own) for own in times), interval, reason)
            next_check = count + max(_PAIRS_BETWEEN_CHECKS, int(count * _GROWTH_BETWEEN_CHECKS))
            _refill_caches(calls)


def race_with_gaps(
    calls: Sequence[Call],
    settings: RaceSettings,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> RaceResult:
    """Time rounds with a pause before each call, as a camera would make them.

    A processor that idles lowers its clock and loses its caches, so a call after a pause takes
    longer than one of many. ``min_pairs`` rounds, fewer when ``max_seconds`` have passed, but never
    fewer than ``MIN_PAIRS``.
    """
    gap_ms = settings.idle_gap_ms or 0.0
    rng = np.random.default_rng(seed)
    times: list[list[float]] = [[] for _ in calls]
    deadline = clock() + settings.max_seconds * _NS_PER_S
    with _no_garbage_collection():
        while len(times[0]) < settings.min_pairs:
            if len(times[0]) >= MIN_PAIRS and clock() >= deadline:
                break
            _time_round(calls, times, rng, clock, pause=lambda: sleep(gap_ms / _MS_PER_S))
    interval = bootstrap_interval(np.asarray(times), rng)
    reason = f"{len(times[0])} calls timed, {gap_ms:g} ms apart"
    return RaceResult(tuple(tuple(own) for own in times), interval, reason)


def bootstrap_interval(
    times_ms: NDArray[np.float64], rng: np.random.Generator, num_resamples: int = _NUM_RESAMPLES
) -> Interval:
    """Ratio of medians (of one network: its median) with a 95 % percentile-bootstrap interval.

    Rounds are drawn together, in blocks of neighbours (Kuensch 1989): slow spells last for many
    calls, and drawing single rounds would take them for independent.

    Args:
        times_ms: One or two rows of as many calls.

    Raises:
        CoarseClockError: A median is 0 ms.
    """
    medians = np.median(times_ms, axis=1)
    if medians.min() <= 0:
        raise CoarseClockError(
            "the clock cannot resolve one call (median 0 ms); use a larger batch"
        )
    drawn = _drawn_blocks(times_ms.shape[1], num_resamples, rng)
    values = _value(np.median(times_ms[:, drawn], axis=2))
    ends = np.percentile(values, (*_REPORTED, *_DECIDING))
    return Interval(float(_value(medians)), *(float(end) for end in ends))


def relative_spread(times_ms: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, median, high = np.percentile(times_ms, (25, 50, 75))
    return float((high - low) / median)


def _value(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    """First over second; of one network, itself."""
    ratio: NDArray[np.float64] = medians[0] / medians[1] if len(medians) == 2 else medians[0]
    return ratio


def _drawn_blocks(count: int, num_resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of resampled rounds, [num_resamples, count]; blocks wrap around at the end."""
    length = math.ceil(count ** (1 / 3))
    starts = rng.integers(0, count, size=(num_resamples, math.ceil(count / length), 1))
    blocks = (starts + np.arange(length)) % count
    return blocks.reshape(num_resamples, -1)[:, :count]


def _warm_up(calls: Sequence[Call], clock: Clock, max_seconds: float) -> None:
    """Call all in turn until the last window's median is near the one before, or time is up."""
    deadline = clock() + max_seconds * _NS_PER_S
    times: list[list[float]] = [[] for _ in calls]
    while True:
        for index, call in enumerate(calls):
            times[index].append(_timed_ms(call, clock))
        if clock() >= deadline or all(_is_stationary(own) for own in times):
            return


def _is_stationary(times_ms: list[float]) -> bool:
    if len(times_ms) < 2 * _WARMUP_WINDOW:
        return False
    before = np.median(times_ms[-2 * _WARMUP_WINDOW : -_WARMUP_WINDOW])
    last = np.median(times_ms[-_WARMUP_WINDOW:])
    return bool(abs(last - before) <= _STATIONARY_CHANGE * before)


def _time_round(
    calls: Sequence[Call],
    times_ms: list[list[float]],
    rng: np.random.Generator,
    clock: Clock,
    pause: Callable[[], None] | None = None,
) -> None:
    """Each once (changes ``times_ms``).

    The order is random, since the second finds the first's cache lines.
    """
    for index in rng.permutation(len(calls)):
        if pause is not None:
            pause()
        times_ms[index].append(_timed_ms(calls[index], clock))


def _timed_ms(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return (clock() - start) / _NS_PER_MS


def _refill_caches(calls: Sequence[Call]) -> None:
    """One untimed round: the resampling before it has emptied the caches."""
    for call in calls:
        call()


def _reason_to_stop(
    interval: Interval, timed: str, count: int, is_late: bool, settings: RaceSettings
) -> str | None:
    if count >= settings.min_pairs:
        if settings.decide_ratio is not None:
            if interval.excludes(1 / settings.decide_ratio):
                return f"interval wholly on one side of {settings.decide_ratio:.1%} after {timed}"
        elif interval.relative_width <= settings.ratio_interval:
            return f"interval narrower than {settings.ratio_interval:.0%} after {timed}"
    if is_late:
        return f"{settings.max_seconds:g} s passed after {timed}"
    return f"{timed} timed" if count >= MAX_PAIRS else None


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
