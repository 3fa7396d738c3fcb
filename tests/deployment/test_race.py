"""The race by itself: a file that runs alone, its intervals, and when it stops."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fairdeploy.deployment.latency import bootstrap, entrants
from fairdeploy.deployment.latency import race as race_module
from fairdeploy.deployment.latency.bootstrap import Interval, bootstrap_interval
from fairdeploy.deployment.latency.race import (
    RaceResult,
    RaceSettings,
    race,
    race_with_gaps,
)
from tests.deployment.fakes import FakeClock

SETTINGS = RaceSettings(warmup_seconds=0.05, min_pairs=20, max_seconds=5.0, ratio_interval=0.05)


def lognormal_call(
    clock: FakeClock, median_ms: float, spread: float, seed: int
) -> Callable[[], None]:
    """A call whose median duration is known."""
    rng = np.random.default_rng(seed)
    return lambda: clock.advance_ms(median_ms * rng.lognormal(0.0, spread))


def decide(
    second_ms: float, decide_ratio: float, *, spread: float = 0.1, seed: int = 1
) -> RaceResult:
    clock = FakeClock()
    calls = (
        lognormal_call(clock, 10.0, spread, 2 * seed),
        lognormal_call(clock, second_ms, spread, 2 * seed + 1),
    )
    settings = RaceSettings(0.05, 20, 5.0, ratio_interval=1e-9, decide_ratio=decide_ratio)
    return race(calls, settings, seed=seed, clock=clock)


@pytest.mark.parametrize("module", [bootstrap, entrants, race_module])
def test_the_file_runs_alone_on_an_old_python(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(), feature_version=(3, 8))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert imported <= {
        "__future__", "gc", "math", "time", "contextlib", "dataclasses", "typing", "numpy",
        "numpy.typing", "collections.abc", "fairdeploy.deployment.latency.bootstrap",
        "fairdeploy.deployment.latency.entrants",
    }  # fmt: skip


def test_a_clear_decision_ends_the_race_long_before_its_time() -> None:
    # 6 of 10 ms is far below 80 %: the looks at 20 and 30 pairs decide.
    result = decide(6.0, 0.8)
    assert result.stopped_because == "interval wholly on one side of 80.0% after 30 pairs"
    assert result.interval.low > 1 / 0.8


def test_a_threshold_inside_the_interval_keeps_the_race_going_until_time_is_up() -> None:
    result = decide(8.0, 0.8)
    assert result.stopped_because.startswith("5 s passed after ")
    assert result.interval.low < 1 / 0.8 < result.interval.high


def test_looking_again_and_again_seldom_decides_what_cannot_be_decided() -> None:
    # Each race looks about 10 times at a ratio that equals the threshold.
    wrong = sum(
        decide(8.0, 0.8, seed=seed).stopped_because.startswith("interval") for seed in range(40)
    )
    assert wrong <= 5  # 2 expected at 5 %


def test_a_single_network_is_timed_until_its_median_is_known() -> None:
    clock = FakeClock()
    result = race((lognormal_call(clock, 4.0, 0.1, 1),), SETTINGS, seed=0, clock=clock)
    assert len(result.times_ms) == 1
    assert result.interval.low < 4.0 < result.interval.high
    assert result.interval.relative_width <= 0.05
    assert result.stopped_because.endswith(" calls")


def test_with_gaps_every_call_comes_after_a_pause() -> None:
    clock, log = FakeClock(), []

    def sleep(seconds: float) -> None:
        log.append("pause")
        clock.advance_ms(seconds * 1e3)

    def call(name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            log.append(name)
            clock.advance_ms(milliseconds)

        return run

    result = race_with_gaps(
        (call("A", 3.0), call("B", 2.0)),
        replace(SETTINGS, idle_gap_ms=33.0),
        seed=0,
        clock=clock,
        sleep=sleep,
    )
    assert log[::2] == ["pause"] * 40
    assert sorted(log[1::2]) == ["A"] * 20 + ["B"] * 20
    assert log[1::2] != ["A", "B"] * 20
    assert set(result.times_ms[0]) == {3.0}
    assert result.interval.value == pytest.approx(1.5)
    assert result.stopped_because == "20 calls timed, 33 ms apart"


def test_bootstrap_interval_agrees_with_the_theory_for_the_median() -> None:
    # The log of a lognormal median has standard error spread * sqrt(pi / 2n); two networks add.
    rng, count, spread = np.random.default_rng(0), 2000, 0.2
    original, shrunk = (rng.lognormal(0.0, spread, count) for _ in range(2))
    interval = bootstrap_interval(np.array([original, shrunk]), rng)
    expected = 2 * 1.96 * spread * np.sqrt(np.pi / (2 * count)) * np.sqrt(2)
    assert np.log(interval.high / interval.low) == pytest.approx(expected, rel=0.25)


def test_bootstrap_keeps_pairs_together() -> None:
    # A slow spell hits both networks of a pair: the ratio is 2 in each resample.
    rng = np.random.default_rng(0)
    shrunk = rng.lognormal(0.0, 0.5, 200)
    interval = bootstrap_interval(np.array([2.0 * shrunk, shrunk]), rng)
    assert interval.low == pytest.approx(2.0)
    assert interval.high == pytest.approx(2.0)


def test_bootstrap_interval_grows_when_slow_spells_last_for_many_calls() -> None:
    rng = np.random.default_rng(0)
    together, shuffled = [], []
    for _ in range(20):
        is_slow = np.repeat(rng.random(40) < 0.4, 10)
        original = 1.0 + is_slow + 0.5 * rng.random(400)
        shrunk = 1.0 + 0.5 * rng.random(400)
        together.append(bootstrap_interval(np.array([original, shrunk]), rng).relative_width)
        order = rng.permutation(400)
        shuffled.append(bootstrap_interval(np.array([original[order], shrunk]), rng).relative_width)
    assert np.mean(together) > 1.5 * np.mean(shuffled)


def spells(count: int, rng: np.random.Generator) -> np.ndarray:
    """Two networks alike, each with slow noise of its own: correlation 0.9 from call to call."""
    steps = rng.standard_normal((2, count))
    noise = np.zeros((2, count))
    for index in range(1, count):
        noise[:, index] = 0.9 * noise[:, index - 1] + np.sqrt(1 - 0.9**2) * steps[:, index]
    return np.exp(0.05 * noise)


def test_the_interval_holds_the_ratio_though_neighbours_are_alike() -> None:
    # Blocks of the cube root alone would hold it in about 55 of 100.
    rng = np.random.default_rng(0)
    holds = 0
    for _ in range(100):
        interval = bootstrap_interval(spells(400, rng), rng, 300)
        holds += interval.low <= 1.0 <= interval.high
    assert holds >= 85


def test_the_interval_of_few_blocks_is_wider_as_student_s_t_is() -> None:
    # Quantiles of t at 97.5 %, from a table: 2.262 at 9 degrees, 2.776 at 4, 1.984 at 100.
    for num_blocks, quantile in ((10, 2.262), (5, 2.776), (101, 1.984)):
        widened = 1.96 * float(bootstrap._widening(num_blocks, np.array([1.96]))[0])
        assert widened == pytest.approx(quantile, rel=0.01)


def test_only_two_good_looks_in_a_row_end_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    narrow, wide = Interval(1.0, 0.999, 1.001, 0.99, 1.01), Interval(1.0, 0.5, 2.0, 0.4, 3.0)
    looks = iter([narrow, wide, wide, narrow, narrow])
    monkeypatch.setattr(race_module, "bootstrap_interval", lambda times, rng, sessions: next(looks))
    result = race([lambda: clock.advance_ms(10.0)] * 2, SETTINGS, seed=0, clock=clock)
    # Looks at 20, 30, 40, 50 and 62 pairs.
    assert result.stopped_because == "interval narrower than 5% after 62 pairs"


def test_a_fast_race_lasts_a_twentieth_of_its_time_at_least() -> None:
    clock = FakeClock()
    settings = RaceSettings(0.0, 20, 20.0, ratio_interval=0.5)
    result = race([lambda: clock.advance_ms(1.0)] * 2, settings, seed=0, clock=clock)
    assert 1000 <= 2 * len(result.times_ms[0]) <= 1300
