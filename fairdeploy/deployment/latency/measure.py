"""How fast a network is, and how much faster the shrunk one: raced in one process, with intervals.

``race`` holds the measuring itself; here it meets runners and target profiles.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fairdeploy.deployment.devices.device_facts import (
    AffinityError,
    device_facts,
    held_on_cores,
    load_average,
)
from fairdeploy.deployment.exporter_api import Array, Runner
from fairdeploy.deployment.latency.bootstrap import CoarseClockError
from fairdeploy.deployment.latency.entrants import Opened
from fairdeploy.deployment.latency.latency_records import (
    Terms,
    comparison_record,
    device_record,
    measurement_record,
)
from fairdeploy.deployment.latency.race import (
    MIN_PAIRS,
    Measured,
    RaceSettings,
    measure,
)
from fairdeploy.errors import MeasurementError
from fairdeploy.records import LatencyComparison, LatencyMeasurement, TargetProfile

if TYPE_CHECKING:
    from fairdeploy.deployment.latency.entrants import Clock

    Sleep = Callable[[float], None]
    """Waits so many seconds."""


def compare_latency(
    open_original: Callable[[], Runner],
    open_shrunk: Callable[[], Runner],
    inputs: tuple[Array, ...],
    profile: TargetProfile,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
    decide_ratio: float | None = None,
) -> LatencyComparison:
    """Time single calls of both networks, alternating, until the speed-up is known well enough.

    Cold start (opening and the first call) is timed apart. Warm-up ends when both networks are
    stationary or ``profile.warmup_seconds`` have passed. Then pairs are timed, in random order
    within the pair, until the interval of the ratio is narrower than ``profile.ratio_interval`` of
    it, or ``profile.max_seconds`` have passed; never fewer than ``MIN_PAIRS``. If the profile has
    an ``idle_gap_ms``, pairs with such a pause before each call follow.

    Args:
        open_original: Opens the original, again and again (see ``entrants``). The first time it
            also pays for loading the runtime's libraries if nothing has used them so far.
        open_shrunk: Opens the shrunk network.
        inputs: One batch, the same for every call.
        profile: Limits of time and precision.
        seed: Decides the order within pairs and the resamples.
        clock: Nanoseconds; for tests.
        sleep: Waits; for tests.
        decide_ratio: A threshold for shrunk / original time. If given, the race lasts until the
            ratio is known to lie on one side of it, or time is up, whatever the interval's width.

    Raises:
        MeasurementError: ``profile.min_pairs`` is below 20, the profile is of another machine or
            names cores that are not there, the networks run on different providers or numbers of
            threads, or the clock is too coarse.
        ExportError: A file cannot be opened or run.
    """
    opens = (open_original, open_shrunk)
    settings = replace(race_settings(profile), decide_ratio=decide_ratio)
    measured, terms = _measured(opens, inputs, profile, settings, seed, clock, sleep)
    return comparison_record(measured, profile, terms)


def measure_latency(
    open_runner: Callable[[], Runner],
    inputs: tuple[Array, ...],
    profile: TargetProfile,
    *,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> LatencyMeasurement:
    """Time one network alone, as ``compare_latency`` times two.

    It stops once the interval of the median is narrower than ``profile.ratio_interval`` of it.
    """
    settings = race_settings(profile)
    measured, terms = _measured((open_runner,), inputs, profile, settings, seed, clock, sleep)
    return measurement_record(measured, profile, terms)


def race_settings(profile: TargetProfile) -> RaceSettings:
    """What the profile says of warm-up, stopping and pauses."""
    return RaceSettings(
        warmup_seconds=profile.warmup_seconds,
        min_pairs=profile.min_pairs,
        max_seconds=profile.max_seconds,
        ratio_interval=profile.ratio_interval,
        idle_gap_ms=profile.idle_gap_ms,
    )


def require_this_machine(profile: TargetProfile) -> None:
    """Refuse to let this machine stand for a device of another kind.

    Raises:
        MeasurementError: It is of another architecture.
    """
    if profile.machine not in (None, platform.machine()):
        raise MeasurementError(
            f"target '{profile.name}' is an {profile.machine} device and this machine is "
            f"{platform.machine()}; measure there with fairdeploy measure --host, or leave the "
            "latency out with --no-latency"
        )


def _measured(
    opens: Sequence[Callable[[], Runner]],
    inputs: tuple[Array, ...],
    profile: TargetProfile,
    settings: RaceSettings,
    seed: int,
    clock: Clock,
    sleep: Sleep,
) -> tuple[Measured, Terms]:
    _refuse_empty_claims(profile)
    load_before = load_average()
    runners: list[Runner] = []
    with _measurement_errors(profile), held_on_cores(profile.affinity):
        facts = device_facts()
        measured = measure(
            [partial(_opened, open_one, inputs, runners) for open_one in opens],
            settings, seed=seed, clock=clock, sleep=sleep,
        )  # fmt: skip
        device = device_record(
            facts, load_before=load_before, load_after=load_average(),
            versions=dict(runners[0].versions),
        )  # fmt: skip
        batch = int(inputs[0].shape[0]) if inputs[0].ndim else 1
        return measured, Terms(runners[0].providers, runners[0].threads, batch, device)


def _refuse_empty_claims(profile: TargetProfile) -> None:
    if profile.min_pairs < MIN_PAIRS:
        raise MeasurementError(
            f"min_pairs {profile.min_pairs} in target '{profile.name}' is too few for percentiles; "
            f"use at least {MIN_PAIRS}"
        )
    require_this_machine(profile)


@contextmanager
def _measurement_errors(profile: TargetProfile) -> Iterator[None]:
    """Errors of the files that also run alone become ours."""
    try:
        yield
    except CoarseClockError as error:
        raise MeasurementError(str(error)) from error
    except AffinityError as error:
        raise MeasurementError(f"target '{profile.name}': {error}") from error


def _opened(
    open_runner: Callable[[], Runner], inputs: tuple[Array, ...], runners: list[Runner]
) -> Opened:
    """The call to time; ``runners`` gets the first one, whose terms hold for all."""
    runner = open_runner()
    if not runners:
        runners.append(runner)
    try:
        _require_equal_terms(runners[0], runner)
    except MeasurementError:
        runner.close()
        raise
    return Opened(lambda: runner.run(inputs), runner.close)


def _require_equal_terms(original: Runner, shrunk: Runner) -> None:
    """Either network would look faster or slower than it is."""
    if (original.providers, original.threads) != (shrunk.providers, shrunk.threads):
        raise MeasurementError(
            f"the original runs on {original.providers} with {original.threads} threads, the "
            f"shrunk network on {shrunk.providers} with {shrunk.threads}; both must run alike to "
            "be compared"
        )
