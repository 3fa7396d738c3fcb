"""The race of two networks, on a clock that the test turns."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fairdeploy.deployment.latency.measure import compare_latency, measure_latency
from fairdeploy.errors import ExportError, MeasurementError
from fairdeploy.records import LatencyComparison
from tests.deployment.fakes import FakeClock, FakeRunner, profile

IMAGES = (np.zeros((2, 3, 4, 4), dtype=np.float32),)
Duration = Callable[[int], float]


def always(milliseconds: float) -> Duration:
    return lambda _: milliseconds


def lognormal(median_ms: float, spread: float, seed: int) -> Duration:
    """Durations whose median is known; the distribution is that of real latencies."""
    rng = np.random.default_rng(seed)
    return lambda _: float(median_ms * rng.lognormal(0.0, spread))


def race(original: Duration, shrunk: Duration, **changes: object) -> LatencyComparison:
    clock = FakeClock()
    return compare_latency(
        lambda: FakeRunner(clock, original),
        lambda: FakeRunner(clock, shrunk),
        IMAGES,
        profile(**changes),
        seed=0,
        clock=clock,
    )


def test_speedup_is_the_ratio_of_steady_networks() -> None:
    result = race(always(6.0), always(4.0))
    assert result.speedup == pytest.approx(1.5)
    assert result.speedup_low == pytest.approx(1.5)
    assert result.speedup_high == pytest.approx(1.5)
    assert (result.original.median_ms, result.shrunk.median_ms) == (6.0, 4.0)
    assert not result.is_noisy


def test_spells_that_slow_down_half_of_all_pairs_do_not_move_the_speedup() -> None:
    """Both networks take 1.3 times as long in spells of 8 pairs; just over half of them."""
    clock, calls = FakeClock(), [0]

    def in_spells(milliseconds: float) -> Duration:
        def duration(call: int) -> float:
            calls[0] += 1
            return milliseconds * (1.3 if calls[0] // 16 % 2 else 1.0)

        return duration

    result = compare_latency(
        lambda: FakeRunner(clock, in_spells(6.0)), lambda: FakeRunner(clock, in_spells(4.0)),
        IMAGES, profile(min_pairs=200, max_seconds=60.0), seed=0, clock=clock,
    )  # fmt: skip
    assert result.speedup == pytest.approx(1.5, rel=1e-6)
    assert result.speedup_low == pytest.approx(1.5, rel=1e-6)


def test_the_interval_holds_the_true_ratio_of_two_unsteady_networks() -> None:
    result = race(lognormal(5.0, 0.1, 1), lognormal(2.0, 0.1, 2), max_seconds=60.0)
    assert result.speedup_low < 2.5 < result.speedup_high
    assert result.stopped_because.startswith("interval narrower than 5%")


def test_the_interval_of_a_network_against_itself_holds_one_in_most_races() -> None:
    holds = 0
    for seed in range(40):
        result = race(lognormal(5.0, 0.1, 2 * seed), lognormal(5.0, 0.1, 2 * seed + 1))
        holds += result.speedup_low <= 1.0 <= result.speedup_high
    assert holds >= 34  # 38 expected; fewer than 34 of 40 has a chance below 2 %


def test_the_last_network_is_opened_again_and_that_copy_is_not_timed() -> None:
    clock = FakeClock()
    opened: list[tuple[str, FakeRunner]] = []

    def open_named(name: str) -> FakeRunner:
        opened.append((name, FakeRunner(clock, always(1.0))))
        return opened[-1][1]

    result = compare_latency(
        lambda: open_named("original"), lambda: open_named("shrunk"), IMAGES, profile(), seed=0,
        clock=clock,
    )  # fmt: skip
    assert [name for name, _ in opened] == ["original", "shrunk", "shrunk"]
    calls = [runner.num_calls for _, runner in opened]
    assert calls[0] == calls[1] > len(result.shrunk.raw_ms)
    assert calls[2] == 1
    assert all(runner.is_closed for _, runner in opened)


def test_percentiles_come_from_the_timed_calls_only() -> None:
    # 1 cold call, 20 to warm up (the first 10 slow), then 40 timed: 36 of 1 ms, 4 of 3 ms; one
    # more is not timed, after the look at 30 pairs.
    def original(call: int) -> float:
        if call == 0:
            return 500.0
        if call <= 10:
            return 1.02
        return 3.0 if call >= 58 else 1.0

    result = race(original, always(1.0), min_pairs=40, warmup_seconds=9.0, ratio_interval=9.0)
    assert len(result.original.raw_ms) == 40
    assert sorted(result.original.raw_ms)[35:37] == [1.0, 3.0]
    assert result.original.median_ms == 1.0
    assert result.original.p90_ms == pytest.approx(1.2)  # index 35.1 of 0..39
    assert result.original.p99_ms == 3.0


def test_cold_start_is_opening_and_the_first_call() -> None:
    clock = FakeClock()

    def open_slowly() -> FakeRunner:
        clock.advance_ms(70.0)
        return FakeRunner(clock, lambda call: 30.0 if call == 0 else 1.0)

    result = compare_latency(
        open_slowly, lambda: FakeRunner(clock, always(1.0)), IMAGES, profile(), seed=0, clock=clock
    )
    assert result.original.cold_start_ms == pytest.approx(100.0)
    assert result.shrunk.cold_start_ms == pytest.approx(1.0)
    assert max(result.original.raw_ms) == 1.0


def test_warm_up_lasts_until_the_times_are_stationary() -> None:
    def settling(call: int) -> float:
        return 1.0 + 10.0 * 0.9**call

    result = race(settling, always(1.0), warmup_seconds=60.0)
    assert max(result.original.raw_ms) < 1.15


def test_warm_up_ends_after_its_time_even_if_nothing_settles() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, lambda call: 1.0 + call)
    compare_latency(
        lambda: runner, lambda: FakeRunner(clock, always(1.0)), IMAGES,
        profile(warmup_seconds=0.05, max_seconds=0.01), seed=0, clock=clock,
    )  # fmt: skip
    assert runner.num_calls < 60


def test_both_networks_run_in_turn_in_random_order() -> None:
    clock = FakeClock()
    log: list[str] = []
    compare_latency(
        lambda: FakeRunner(clock, always(1.0), name="A", log=log),
        lambda: FakeRunner(clock, always(1.0), name="B", log=log),
        IMAGES, profile(min_pairs=30, warmup_seconds=0.0), seed=3, clock=clock,
    )  # fmt: skip
    pairs = [log[i : i + 2] for i in range(len(log) - 60, len(log), 2)]
    assert all(sorted(pair) == ["A", "B"] for pair in pairs)
    num_original_first = sum(pair[0] == "A" for pair in pairs)
    assert 5 <= num_original_first <= 25


def test_the_same_seed_gives_the_same_comparison() -> None:
    first = race(lognormal(5.0, 0.2, 1), lognormal(4.0, 0.2, 2))
    second = race(lognormal(5.0, 0.2, 1), lognormal(4.0, 0.2, 2))
    assert replace(first, device=None, load_average=0.0) == replace(
        second, device=None, load_average=0.0
    )


def test_it_stops_when_time_is_up_and_says_so() -> None:
    result = race(lognormal(5.0, 0.5, 1), lognormal(5.0, 0.5, 2), ratio_interval=1e-6)
    assert result.stopped_because.startswith("1 s passed after ")
    assert 20 <= len(result.original.raw_ms) < 200


def test_it_times_at_least_twenty_pairs_even_if_time_is_up() -> None:
    result = race(always(900.0), always(300.0), min_pairs=40)
    assert len(result.original.raw_ms) == len(result.shrunk.raw_ms) == 20


def test_an_endless_race_ends_at_the_largest_number_of_pairs() -> None:
    result = race(
        lognormal(0.01, 0.5, 1), lognormal(0.01, 0.5, 2), ratio_interval=1e-9, max_seconds=1e6
    )
    assert 5000 <= len(result.original.raw_ms) < 6500
    assert result.stopped_because.endswith("pairs timed")


def test_too_few_pairs_are_refused_before_anything_is_opened() -> None:
    def never() -> FakeRunner:
        raise AssertionError("opened")

    with pytest.raises(MeasurementError, match=r"min_pairs 19 .* use at least 20"):
        compare_latency(never, never, IMAGES, profile(min_pairs=19), seed=0)


def test_an_unsteady_measurement_is_flagged() -> None:
    assert race(lognormal(5.0, 0.4, 1), always(5.0)).is_noisy
    assert not race(lognormal(5.0, 0.05, 1), always(5.0)).is_noisy


def test_the_comparison_says_on_what_it_ran() -> None:
    result = race(always(2.0), always(1.0))
    assert (result.target, result.batch) == ("test-target", 2)
    assert (result.providers, result.threads) == (("FakeProvider",), 1)
    assert result.load_average >= 0.0


@pytest.mark.parametrize("difference", [{"threads": 4}, {"providers": ("Other",)}])
def test_networks_that_run_on_different_terms_are_not_compared(difference: dict[str, Any]) -> None:
    clock = FakeClock()
    runners = [FakeRunner(clock, always(1.0)), FakeRunner(clock, always(1.0), **difference)]
    with pytest.raises(MeasurementError, match="both must run alike"):
        compare_latency(
            lambda: runners[0], lambda: runners[1], IMAGES, profile(), seed=0, clock=clock
        )
    assert all(runner.is_closed for runner in runners)


def test_a_clock_that_cannot_see_the_network_is_refused() -> None:
    with pytest.raises(MeasurementError, match="cannot resolve one call"):
        race(always(1.0), always(0.0), max_seconds=0.01)


def test_both_runners_are_closed_and_collection_is_on_again_when_a_call_fails() -> None:
    clock = FakeClock()

    def fails_late(call: int) -> float:
        if call > 30:
            raise ExportError("device lost")
        return 1.0

    runners = [FakeRunner(clock, always(1.0)), FakeRunner(clock, fails_late)]
    with pytest.raises(ExportError, match="device lost"):
        compare_latency(
            lambda: runners[0], lambda: runners[1], IMAGES, profile(), seed=0, clock=clock
        )
    assert all(runner.is_closed for runner in runners)
    assert gc.isenabled()


def test_with_an_idle_gap_calls_after_a_pause_are_reported_beside() -> None:
    # A call within 10 ms of the one before takes 2 ms, after a pause 5 ms; shrunk: 1 and 4 ms.
    clock, ends = FakeClock(), [0]

    def waking(busy_ms: float) -> Duration:
        def duration(_: int) -> float:
            is_awake = clock.now_ns - ends[0] < 10e6
            milliseconds = busy_ms if is_awake else busy_ms + 3.0
            ends[0] = clock.now_ns + int(milliseconds * 1e6)
            return milliseconds

        return duration

    result = compare_latency(
        lambda: FakeRunner(clock, waking(2.0)), lambda: FakeRunner(clock, waking(1.0)),
        IMAGES, profile(idle_gap_ms=33.0), seed=0, clock=clock,
        sleep=lambda seconds: clock.advance_ms(seconds * 1e3),
    )  # fmt: skip
    assert result.speedup == pytest.approx(2.0)
    assert result.idle_gap is not None
    assert result.idle_gap.gap_ms == 33.0
    assert result.idle_gap.original.median_ms == pytest.approx(5.0)
    assert result.idle_gap.shrunk.p99_ms == pytest.approx(4.0)
    assert result.idle_gap.speedup == pytest.approx(1.25)
    assert len(result.idle_gap.original.raw_ms) == 20


def test_without_an_idle_gap_nothing_waits() -> None:
    assert race(always(2.0), always(1.0)).idle_gap is None


def test_one_network_alone_has_an_interval_of_its_median_and_its_cold_start() -> None:
    clock = FakeClock()

    def duration(call: int) -> float:
        return 50.0 if call == 0 else lognormal_ms(call)

    lognormal_ms = lognormal(4.0, 0.1, 1)
    result = measure_latency(
        lambda: FakeRunner(clock, duration), IMAGES, profile(), seed=0, clock=clock
    )
    assert result.stats.cold_start_ms == pytest.approx(50.0)
    assert result.median_low_ms < 4.0 < result.median_high_ms
    assert result.stopped_because.startswith("interval narrower than 5%")
    assert (result.batch, result.threads, result.providers) == (2, 1, ("FakeProvider",))


def test_the_device_and_the_runtime_s_versions_are_recorded() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, always(1.0))
    runner.versions = {"fakeruntime": "1.2"}
    result = measure_latency(lambda: runner, IMAGES, profile(), seed=0, clock=clock)
    assert result.device.versions == {"fakeruntime": "1.2"}
    assert result.device.machine == platform.machine()
    assert result.device.cores >= 1
    assert result.device.load_after is None or result.device.load_after >= 0


def test_a_profile_of_another_machine_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(
        MeasurementError, match=r"is an riscv64 device and this machine is .*--host"
    ):
        race(always(1.0), always(1.0), machine="riscv64")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_threads_start_on_the_cores_of_the_profile() -> None:
    clock, seen = FakeClock(), []
    core = min(os.sched_getaffinity(0))

    def open_runner() -> FakeRunner:
        seen.append(os.sched_getaffinity(0))
        return FakeRunner(clock, always(1.0))

    measure_latency(open_runner, IMAGES, profile(affinity=(core,)), seed=0, clock=clock)
    assert seen == [{core}]
    with pytest.raises(MeasurementError, match=r"target 'test-target': affinity names core 9999"):
        race(always(1.0), always(1.0), affinity=(9999,))
