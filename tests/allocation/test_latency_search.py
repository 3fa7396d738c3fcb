"""The search for a latency budget, on devices that a test makes up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairdeploy.allocation.latency_search import MAX_CANDIDATES, search_latency
from fairdeploy.errors import DeviceLostError
from fairdeploy.records import Allocation, LatencySearch, TimedPlan

NUM_UNITS = 400
FIXED = 0.1
"""The smallest plan's share of the original, by the model."""


def plan(num_removed: int) -> Allocation:
    """Some units of the only group go."""
    kept = 1 - num_removed / NUM_UNITS
    costs = {"params": kept * 1000, "macs": kept * 5000, "latency": FIXED + (1 - FIXED) * kept}
    return Allocation(0.0, {"g": tuple(range(num_removed))}, {"g": num_removed}, costs, 1)


def timed(ratio: float) -> TimedPlan:
    """Of an original that takes 10 ms."""
    return TimedPlan(ratio, ratio, ratio, 10.0, 10 * ratio)


class MadeUpDevice:
    """Takes ``ratio_of(predicted share)`` of 10 ms."""

    def __init__(
        self, ratio_of: Callable[[float], float], step: int = 1, at_least_removed: int = 0
    ) -> None:
        self.ratio_of = ratio_of
        self.step = step
        self.at_least_removed = at_least_removed
        self.measured: list[float] = []

    def plan_at(self, share: float) -> Allocation:
        """The plan that keeps most within a predicted share."""
        kept = (min(share, 1.0) - FIXED) / (1 - FIXED)
        blocks = np.ceil((1 - kept) * NUM_UNITS / self.step - 1e-6)
        removed = min(max(int(blocks) * self.step, self.at_least_removed), NUM_UNITS)
        return plan(max(removed, 0))

    def measure(self, allocation: Allocation) -> TimedPlan:
        predicted = allocation.costs["latency"]
        self.measured.append(predicted)
        return timed(self.ratio_of(predicted))

    def search(self, fraction: float) -> tuple[Allocation, LatencySearch]:
        return search_latency(
            self.plan_at,
            self.measure,
            lambda found: found.ratio / fraction,
            predicted=lambda found: found.costs["latency"],
            smallest=(FIXED, timed(self.ratio_of(FIXED))),
            original=timed(1.0),
            budget=f"latency={fraction:.0%}",
        )


@given(fraction=st.floats(0.3, 0.95), curve=st.floats(0.4, 2.5))
def test_smooth_device_is_hit_within_three_percent_in_few_measurements(
    fraction: float, curve: float
) -> None:
    device = MadeUpDevice(lambda share: 0.05 + 0.95 * share**curve)
    assume(device.ratio_of(FIXED) <= fraction)
    allocation, record = device.search(fraction)
    got = device.ratio_of(allocation.costs["latency"])
    assert 0.97 * fraction <= got <= fraction
    assert record.is_confirmed
    assert record.num_measured <= 6
    assert record.accepted.ratio == got


@given(fraction=st.floats(0.3, 0.95), seed=st.integers(0, 10_000))
def test_noise_never_makes_it_accept_what_its_own_confirmation_denies(
    fraction: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    device = MadeUpDevice(lambda share: share * float(rng.normal(1, 0.01)))
    _, record = device.search(fraction)
    assert record.num_measured <= MAX_CANDIDATES
    assert record.accepted.ratio <= fraction
    assert record.is_confirmed


def test_steps_wider_than_the_aim_end_with_the_plan_below_the_step() -> None:
    device = MadeUpDevice(lambda share: 0.9 if share > 0.55 else 0.5)
    allocation, record = device.search(0.8)
    assert 0.5 <= allocation.costs["latency"] <= 0.55
    assert record.num_measured <= MAX_CANDIDATES


def test_coarse_plans_are_not_measured_twice() -> None:
    device = MadeUpDevice(lambda share: share, step=100)
    allocation, record = device.search(0.8)
    assert len(allocation.removed["g"]) == 100
    assert record.ended_because == "no plan lies between the measured ones"
    first_measurements = [c.predicted_ratio for c in record.candidates if not c.is_confirmation]
    assert len(set(first_measurements)) == len(first_measurements)


def test_other_budgets_that_ask_for_more_decide_alone() -> None:
    device = MadeUpDevice(lambda share: share, at_least_removed=300)
    allocation, record = device.search(0.8)
    assert len(allocation.removed["g"]) == 300
    assert record.ended_because == "the other budgets ask for more"
    assert record.num_measured == 1
    assert [c.is_confirmation for c in record.candidates] == [False, True]


def test_network_within_the_budget_stays_whole_and_is_not_measured() -> None:
    device = MadeUpDevice(lambda share: share)
    allocation, record = search_latency(
        device.plan_at,
        device.measure,
        lambda found: found.shrunk_ms / 12.0,
        predicted=lambda found: found.costs["latency"],
        smallest=(FIXED, timed(0.1)),
        original=timed(1.0),
        budget="latency=12ms",
    )
    assert allocation.removed == {"g": ()}
    assert device.measured == []
    assert record.candidates == ()


def test_plan_that_removes_more_and_is_slower_is_passed_over() -> None:
    """Between 0.6 and 0.7 this device gets slower as the network gets smaller."""
    device = MadeUpDevice(lambda share: 0.75 if 0.6 < share < 0.7 else share)
    allocation, record = device.search(0.74)
    remarks = [c.remark for c in record.candidates if 0.6 < c.predicted_ratio < 0.7]
    assert all(remark == "slower than a plan that removes less" for remark in remarks)
    assert device.ratio_of(allocation.costs["latency"]) <= 0.74


def test_lost_device_leaves_the_best_plan_measured_so_far() -> None:
    device = MadeUpDevice(lambda share: share**2)
    calls = 0
    whole = device.measure

    def measure(allocation: Allocation) -> TimedPlan:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DeviceLostError("device 'pi' stopped answering after 30 s")
        return whole(allocation)

    device.measure = measure  # type: ignore[method-assign]
    allocation, record = device.search(0.5)
    assert "device 'pi' stopped answering" in record.ended_because
    assert "best plan measured so far" in record.ended_because
    assert device.ratio_of(allocation.costs["latency"]) <= 0.5


def test_device_lost_before_any_plan_is_an_error() -> None:
    device = MadeUpDevice(lambda share: share)

    def measure(allocation: Allocation) -> TimedPlan:
        raise DeviceLostError("device 'pi' stopped answering after 30 s")

    device.measure = measure  # type: ignore[method-assign]
    with pytest.raises(DeviceLostError, match="'pi' stopped answering"):
        device.search(0.5)
