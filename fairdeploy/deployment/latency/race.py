"""Times one or two networks in turn until their speed is known well enough.

This file needs Python 3.8, numpy, ``bootstrap`` and ``entrants``, so that a copy of the three runs
on any device; ``latency`` turns what it finds into records.

Two separate measurements drift apart with clocks, heat and other load. Pairs in random order share
all of that, so their ratio holds still long before the milliseconds do.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fairdeploy.deployment.latency.bootstrap import Interval, bootstrap_interval
from fairdeploy.deployment.latency.entrants import NS_PER_MS, NS_PER_S, Entrants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fairdeploy.deployment.latency.entrants import Call, Clock, Opened

MIN_PAIRS = 20
"""Percentiles of fewer calls mean nothing."""
MAX_PAIRS = 5000
"""Network pairs so fast or so unsteady that more would only cost memory."""
NOISY_SPREAD = 0.15
"""Interquartile range over median above which a measurement is flagged."""

_WARMUP_WINDOW = 10
_STATIONARY_CHANGE = 0.05
_PAIRS_BETWEEN_LOOKS = 10
_GROWTH_BETWEEN_LOOKS = 0.25
_FIRST_LOOK_PAIRS = 0.75
"""Share of ``min_pairs`` after which the interval is looked at for the first time."""
_FIRST_LOOK_TIME = 0.05
"""Share of ``max_seconds`` that passes before it, since other work comes in spells."""
_GOOD_LOOKS = 2
"""In a row: times that agree by chance would end the race too early and claim too much."""
_MS_PER_S = 1e3


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
    opens: Sequence[Callable[[], Opened]],
    settings: RaceSettings,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Open one or two networks, race them, then race them with gaps if the settings give one."""
    entrants = Entrants(opens, clock)
    try:
        entrants.open()
        back_to_back = race(entrants.calls, settings, seed=seed, clock=clock, entrants=entrants)
        with_gaps = None
        if settings.idle_gap_ms is not None:
            calls = entrants.calls
            with_gaps = race_with_gaps(calls, settings, seed=seed, clock=clock, sleep=sleep)
    finally:
        entrants.close()
    return Measured(entrants.cold_start_ms, back_to_back, with_gaps)


def race(
    calls: Sequence[Call],
    settings: RaceSettings,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    entrants: Entrants | None = None,
) -> RaceResult:
    """Warm up, then time rounds of one call each until the answer is known well enough.

    Warm-up ends when all are stationary or ``warmup_seconds`` have passed. The race ends when the
    interval is narrow enough (or has decided), or ``max_seconds`` have passed; never before
    ``MIN_PAIRS`` rounds.

    Args:
        calls: One or two opened networks.
        seed: Decides the order within rounds and the resamples.
        clock: Nanoseconds.
        entrants: Whose the calls are; they are opened anew between rounds, a few times at least.

    Raises:
        CoarseClockError: The clock cannot see one call.
    """
    rng = np.random.default_rng(seed)
    times: list[list[float]] = [[] for _ in calls]
    with _no_garbage_collection():
        _warm_up(calls, clock, settings.warmup_seconds)
        start = clock()
        deadline = start + settings.max_seconds * NS_PER_S
        first_look = start + settings.max_seconds * _FIRST_LOOK_TIME * NS_PER_S
        next_look = max(MIN_PAIRS, int(settings.min_pairs * _FIRST_LOOK_PAIRS))
        good_looks = 0
        sessions = [0]
        while True:
            _time_round(calls, times, rng, clock)
            count, now = len(times[0]), clock()
            is_over = count >= MAX_PAIRS or (count >= MIN_PAIRS and now >= deadline)
            is_look = is_over or (count >= next_look and now >= first_look)
            if is_look:
                interval = bootstrap_interval(np.asarray(times), rng, sessions=sessions)
                reached = _reached(interval, settings)
                good_looks = good_looks + 1 if reached else 0
                is_known = good_looks >= _GOOD_LOOKS and (
                    entrants is None or entrants.are_enough(settings.max_seconds)
                )
                if is_over or (is_known and count >= settings.min_pairs):
                    reason = f"{settings.max_seconds:g} s passed" if now >= deadline else None
                    return _result(times, interval, (is_known and reached) or reason)
                next_look = count + max(_PAIRS_BETWEEN_LOOKS, int(count * _GROWTH_BETWEEN_LOOKS))
            is_renewed = entrants is not None and entrants.is_due
            if entrants is not None and is_renewed:
                calls = ()  # what is closed goes before its successor is opened
                entrants.renew()
                calls = entrants.calls
                sessions.append(count)
            if is_look or is_renewed:
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
    deadline = clock() + settings.max_seconds * NS_PER_S
    with _no_garbage_collection():
        while len(times[0]) < settings.min_pairs:
            if len(times[0]) >= MIN_PAIRS and clock() >= deadline:
                break
            _time_round(calls, times, rng, clock, pause=lambda: sleep(gap_ms / _MS_PER_S))
    interval = bootstrap_interval(np.asarray(times), rng)
    reason = f"{len(times[0])} calls timed, {gap_ms:g} ms apart"
    return RaceResult(tuple(tuple(own) for own in times), interval, reason)


def relative_spread(times_ms: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, median, high = np.percentile(times_ms, (25, 50, 75))
    return float((high - low) / median)


def _warm_up(calls: Sequence[Call], clock: Clock, max_seconds: float) -> None:
    """Call all in turn until the last window's median is near the one before, or time is up."""
    deadline = clock() + max_seconds * NS_PER_S
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
    return (clock() - start) / NS_PER_MS


def _result(times_ms: list[list[float]], interval: Interval, reason: str | None) -> RaceResult:
    rounds = f"{len(times_ms[0])} {'pairs' if len(times_ms) > 1 else 'calls'}"
    because = f"{reason} after {rounds}" if reason else f"{rounds} timed"
    return RaceResult(tuple(tuple(own) for own in times_ms), interval, because)


def _refill_caches(calls: Sequence[Call]) -> None:
    """One untimed round: the resampling before it has emptied the caches."""
    for call in calls:
        call()


def _reached(interval: Interval, settings: RaceSettings) -> str | None:
    """What the interval has come to, None if nothing yet."""
    ratio = settings.decide_ratio
    if ratio is not None:
        decided = interval.excludes(1 / ratio)
        return f"interval wholly on one side of {ratio:.1%}" if decided else None
    is_narrow = interval.relative_width <= settings.ratio_interval
    return f"interval narrower than {settings.ratio_interval:.0%}" if is_narrow else None


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
