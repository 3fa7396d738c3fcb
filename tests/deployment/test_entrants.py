"""Networks that are opened anew during a race, on a clock that the test turns."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.deployment.latency.entrants import Entrants, Opened
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.deployment.latency.race import RaceSettings, measure
from tests.deployment.fakes import FakeClock, FakeRunner, profile

IMAGES = (np.zeros((1, 3, 4, 4), dtype=np.float32),)


class Sessions:
    """Opens sessions on one clock, each somewhat faster or slower for as long as it lives."""

    def __init__(self, clock: FakeClock, speeds: list[float], opening_ms: float = 0.0) -> None:
        self._clock = clock
        self._speeds = speeds
        self._opening_ms = opening_ms
        self.num_opened = 0
        self.num_open = 0

    def open(self) -> Opened:
        milliseconds = self._speeds[self.num_opened % len(self._speeds)]
        self._clock.advance_ms(self._opening_ms)
        self.num_opened += 1
        self.num_open += 1
        return Opened(lambda: self._clock.advance_ms(milliseconds), self._close)

    def _close(self) -> None:
        self.num_open -= 1


def test_networks_are_opened_anew_after_0_7_seconds_and_old_ones_are_closed() -> None:
    clock = FakeClock()
    first, last = Sessions(clock, [1.0]), Sessions(clock, [1.0])
    entrants = Entrants((first.open, last.open), clock)
    entrants.open()
    clock.advance_ms(699.0)
    entrants.renew()
    assert (first.num_opened, last.num_opened) == (1, 2)  # the last has an idle copy
    clock.advance_ms(1.0)
    entrants.renew()
    assert (first.num_opened, last.num_opened) == (3, 3)  # in the other order
    assert (first.num_open, last.num_open) == (2, 1)
    assert len(entrants.calls) == 2
    entrants.close()
    assert (first.num_open, last.num_open) == (0, 0)


def test_what_opens_slowly_lives_nine_times_as_long_as_it_took() -> None:
    clock = FakeClock()
    slow = Sessions(clock, [0.0], opening_ms=1000.0)
    entrants = Entrants((slow.open, slow.open), clock)
    entrants.open()  # 3 s with the idle copy
    clock.advance_ms(26_999.0)
    entrants.renew()
    assert slow.num_opened == 3
    clock.advance_ms(1.0)
    entrants.renew()
    assert slow.num_opened == 6
    assert entrants.cold_start_ms == (1000.0, 1000.0)


@pytest.mark.parametrize(("max_seconds", "wanted"), [(1.0, 1), (2.0, 2), (20.0, 6)])
def test_an_interval_may_speak_after_six_openings_or_as_many_as_half_of_the_time_holds(
    max_seconds: float, wanted: int
) -> None:
    clock = FakeClock()
    entrants = Entrants((Sessions(clock, [0.0]).open,), clock)
    entrants.open()
    while not entrants.are_enough(max_seconds):
        clock.advance_ms(1000.0)
        entrants.renew()
    assert entrants.num_openings == wanted


def test_the_interval_knows_that_sessions_of_one_file_differ() -> None:
    """One session alone would say 1.10 exactly; the truth, over sessions, is 1.0."""
    clock = FakeClock()
    speeds = [11.0, 9.5, 10.4, 9.1, 10.9, 9.3, 10.2, 9.6, 10.6, 9.4]
    original, shrunk = Sessions(clock, speeds), Sessions(clock, [10.0])
    settings = RaceSettings(0.1, 20, max_seconds=20.0, ratio_interval=0.001)
    result = measure((original.open, shrunk.open), settings, seed=0, clock=clock).back_to_back
    assert original.num_opened >= 10
    assert result.interval.low < 1.0 < result.interval.high
    assert 0.95 <= result.interval.value <= 1.05


def test_a_race_whose_times_agree_at_once_still_opens_six_times() -> None:
    clock = FakeClock()
    opened: list[FakeRunner] = []

    def open_runner() -> FakeRunner:
        opened.append(FakeRunner(clock, lambda _: 5.0))
        return opened[-1]

    result = compare_latency(
        open_runner, open_runner, IMAGES, profile(max_seconds=20.0), seed=0, clock=clock
    )
    assert len(opened) == 18
    assert all(runner.is_closed for runner in opened)
    assert clock.now_ns < 5e9
    assert result.stopped_because.startswith("interval narrower")


def test_calls_stay_in_the_order_of_the_networks_whatever_is_opened_first() -> None:
    clock, log = FakeClock(), []

    def opens(name: str) -> Opened:
        log.append(f"open {name}")
        return Opened(lambda: log.append(name), lambda: None)

    entrants = Entrants((lambda: opens("A"), lambda: opens("B")), clock)
    entrants.open()
    clock.advance_ms(1000.0)
    entrants.renew()
    assert [line for line in log if line.startswith("open")] == [
        "open A", "open B", "open B", "open B", "open A", "open A",
    ]  # fmt: skip
    log.clear()
    for call in entrants.calls:
        call()
    assert log == ["A", "B"]
