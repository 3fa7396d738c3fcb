"""Finds the plan that just meets a latency budget, from as few measurements as possible.

A plan is proposed by a *proxy*: the share of the original's latency that a model predicts for it
(see ``latency_model``), which the usual search meets like a budget of parameters. What the device
then takes is a rising function of the proxy with noise and steps in it. Both ends of it are known
before (the original, the smallest plan); each proposal is where the straight line between the
measured neighbours of the budget crosses the aim. The aim is a little below the budget, so that the
plan that is found is still within it when it is measured again. A plan counts by the mean of its
races, and is confirmed by a fresh one that is within the budget itself.

Where the time jumps over the budget between two plans of that path, or half of the measurements are
spent, plans beside the path are proposed instead (see ``detours``).

A plan that removes more than another and yet was slower is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from fairdeploy.allocation.measured_plans import (
    AIM,
    CLOSE_ENOUGH,
    STEEP,
    MeasuredPlan,
    changes,
    differing_groups,
    is_outdone,
    is_step,
)
from fairdeploy.errors import DeviceLostError
from fairdeploy.records import Allocation, LatencyCandidate, LatencySearch, TimedPlan

MAX_CANDIDATES = 8
MAX_ON_PATH = 4
"""Candidates that are measured before plans beside the path are tried in any case."""

_HALVINGS = 8

PlanAt = Callable[[float], Allocation]
"""The plan for a predicted share of the original's latency, within all other budgets."""
Measure = Callable[[Allocation], TimedPlan]
Used = Callable[[TimedPlan], float]
"""Share of the latency budget; at most 1 where it is met."""


@dataclass(slots=True)
class _Search:
    plan_at: PlanAt
    measure: Measure
    used: Used
    predicted: Callable[[Allocation], float]
    points: list[MeasuredPlan]
    max_candidates: int
    detours: Detours
    log: list[LatencyCandidate] = field(default_factory=list)
    num_measured: int = 0

    def time(
        self, allocation: Allocation, *, is_confirmation: bool = False
    ) -> tuple[TimedPlan, float]:
        """Measure a plan and log it; also its share of the budget."""
        timed = self.measure(allocation)
        used = self.used(timed)
        self.log.append(
            LatencyCandidate(
                predicted_ratio=self.predicted(allocation),
                timed=timed,
                used=used,
                params=allocation.costs["params"],
                macs=allocation.costs["macs"],
                is_confirmation=is_confirmation,
                is_detour=not is_confirmation and self.detours.has_proposed,
            )
        )
        return timed, used

    def run(self) -> str:
        """Measure candidates until one is close and confirmed; why it ended."""
        while True:
            best = self.best()
            if best.is_close and self._confirm(best) and best.is_close:
                return f"confirmed between {CLOSE_ENOUGH:.0%} of the budget and the budget"
            if self.num_measured >= self.max_candidates:
                return self._settle(f"{self.num_measured} candidates were measured")
            if best.allocation and best.allocation.removed == self.plan_at(1.0).removed:
                return self._settle("the other budgets ask for more")
            allocation = self._next(self.best())
            if allocation is None:
                return self._settle("no plan lies between the measured ones")
            self.add(allocation)

    def best(self) -> MeasuredPlan:
        """Among those that fit, the plan that removes least, if none is close to the budget."""
        fitting = [point for point in self.points if point.fits and point.allocation]
        close = [
            point
            for point in fitting
            if point.is_close
            and point.allocation
            and not is_outdone(point.allocation, [p for p in fitting if p.used <= point.used])
        ]
        return max(close or fitting, key=lambda point: point.proxy)

    def add(self, allocation: Allocation) -> None:
        """Measure a new plan."""
        timed, used = self.time(allocation)
        self.num_measured += 1
        point = MeasuredPlan(self.predicted(allocation), [used], timed, allocation)
        self.points.append(point)
        self.detours.learn(point)
        self._pass_over_slower()

    def _pass_over_slower(self) -> None:
        """Say of each measured plan whether one that removes less was at least as fast."""
        for number, entry in enumerate(self.log):
            if entry.remark or entry.is_confirmation:
                continue
            if any(
                other.macs > entry.macs
                and other.params >= entry.params
                and other.timed.ratio <= entry.timed.ratio
                for other in self.log
            ):
                self.log[number] = replace(entry, remark="slower than a plan that removes less")

    def _confirm(self, point: MeasuredPlan) -> bool:
        """Whether a fresh measurement finds the plan within the budget too."""
        if point.allocation is None or point.is_confirmed:
            return True
        point.timed, used = self.time(point.allocation, is_confirmation=True)
        point.races.append(used)
        point.is_confirmed = used <= 1
        return point.is_confirmed

    def _settle(self, reason: str) -> str:
        """Confirm the best plan, or the next best where that fails."""
        while not self._confirm(self.best()):
            pass
        return reason

    def _next(self, best: MeasuredPlan) -> Allocation | None:
        """A plan that was not measured and should be close to the aim; None if there is none."""
        above = [point for point in self.points if not point.fits and point.proxy > best.proxy]
        if not above:
            return self.detours.propose(self.points) if self.detours.is_open else None
        over = min(above, key=lambda point: point.proxy)
        on_path = self._on_path(best, over)
        if not self.detours.is_open:
            jumps = is_step(best, over) or on_path is None
            if not jumps and self.num_measured < MAX_ON_PATH:
                return on_path
            self.detours.open(best, over if jumps else None)
        found = self.detours.propose(self.points)
        if found is None:
            self.detours.close()
        return found or on_path

    def _on_path(self, best: MeasuredPlan, over: MeasuredPlan) -> Allocation | None:
        """One between the two that the shared tolerance gives."""
        gap = over.used - best.used
        share = (AIM - best.used) / gap if gap > 0 else 0.5
        aim = best.proxy + min(max(share, 0.02), 0.98) * (over.proxy - best.proxy)
        known = [point.allocation.removed for point in self.points if point.allocation]
        for proxy in _around(aim, best.proxy, over.proxy):
            allocation = self.plan_at(proxy)
            if allocation.removed not in known:
                return allocation
        return None


def _around(aim: float, low: float, high: float) -> Iterator[float]:
    """The aim, then ever nearer to both ends: where the plans at the aim are known already."""
    yield aim
    for halving in range(1, _HALVINGS):
        part = 0.5**halving
        yield high - part * (high - aim)
        yield low + part * (aim - low)


def _nowhere(plan: Allocation, share: float, fixed: frozenset[str]) -> None:
    """Where there is only the path."""


def search_latency(
    plan_at: PlanAt,
    measure: Measure,
    used: Used,
    *,
    predicted: Callable[[Allocation], float],
    smallest: tuple[float, TimedPlan],
    original: TimedPlan,
    budget: str,
    nearby: Nearby | None = None,
    max_candidates: int = MAX_CANDIDATES,
) -> tuple[Allocation, LatencySearch]:
    """The plan that removes least among the measured ones within the budget.

    Args:
        plan_at: Never a larger plan for a smaller share; ``plan_at(1.0)`` meets all budgets but
            this one and ignores this one.
        measure: Times a plan against the original; the same plan again gives a fresh measurement.
        used: Share of the budget that a measurement says.
        predicted: The proxy of a plan.
        smallest: Proxy and measurement of the smallest plan that is allowed; it fits.
        original: Measurement of the original.
        budget: As typed.
        nearby: Plans beside the path that ``plan_at`` gives; they must meet all other budgets too.
        max_candidates: Different plans to measure at most; confirmations are not counted.

    Raises:
        DeviceLostError: The device stopped answering before any plan was measured.
    """
    share, least = smallest
    whole = plan_at(1.0)
    asks_for_more = any(whole.removed.values())
    points = [
        MeasuredPlan(share, [used(least)], least, plan_at(share), is_confirmed=True),
        MeasuredPlan(
            1.0, [used(original)], original, None if asks_for_more else whole, is_confirmed=True
        ),
    ]
    detours = Detours(nearby or _nowhere)
    search = _Search(plan_at, measure, used, predicted, points, max_candidates, detours)
    is_whole = True
    try:
        if asks_for_more:
            search.add(whole)
        reason = search.run()
    except DeviceLostError as error:
        if search.num_measured == 0:
            raise
        is_whole = False
        reason = f"the device stopped answering ({error}); this is the best plan measured so far"
    best = search.best()
    assert best.allocation is not None
    record = LatencySearch(
        budget=budget,
        range_ms=(least.shrunk_ms, original.shrunk_ms),
        candidates=tuple(search.log),
        ended_because=reason,
        accepted=best.timed,
        is_confirmed=is_whole or best.is_confirmed,
    )
    return best.allocation, record


# ---- plans beside the tolerance path, for a budget that lies in a step of the device's time ------


Nearby = Callable[[Allocation, float, frozenset[str]], Allocation | None]
"""The plan near another one for a predicted share of the original's latency, which leaves the named
groups as they are; None if there is none."""

# Bounds on how the time changes beside the model's word; flat pieces of a staircase, which small
# changes meet, would send the next detour too far.
_LEAST_STEEP, _MOST_STEEP = 0.5, STEEP
# Logarithm of the smallest change that the model is trusted with.
_LEAST_CHANGE = 0.02


@dataclass(slots=True)
class Detours:
    """Proposes plans; told of what they took, it learns."""

    nearby: Nearby
    left_alone: frozenset[str] = frozenset()
    is_open: bool = False
    _seen: tuple[float, float] = (0.0, 0.0)
    """Logarithms of the last detour's changes: predicted, and measured."""
    _anchor: MeasuredPlan | None = field(default=None, repr=False)

    def open(self, below: MeasuredPlan, above: MeasuredPlan | None) -> None:
        """Leave the path.

        Args:
            below: The best plan.
            above: The plan on the other side of a step: groups in which these two differ stay as
                they are. None where no step was seen.
        """
        self.is_open = True
        if above and below.allocation and above.allocation:
            self.left_alone |= differing_groups(below.allocation, above.allocation)

    def close(self) -> None:
        """Go back to the path; the next detour starts anew."""
        self.is_open, self.left_alone = False, frozenset()

    def propose(self, plans: Sequence[MeasuredPlan]) -> Allocation | None:
        """A plan that was not measured and should be close to the aim; None if there is none."""
        self._anchor = None
        known = [plan.allocation.removed for plan in plans if plan.allocation]
        fitting = [plan for plan in plans if plan.fits]
        anchors = sorted(plans, key=lambda plan: abs(math.log(AIM / plan.used)))
        for anchor in [plan for plan in anchors if plan.allocation]:
            assert anchor.allocation is not None
            share = anchor.proxy * math.exp(self._predicted(math.log(AIM / anchor.used)))
            found = self.nearby(anchor.allocation, share, self.left_alone)
            if found is None or found.removed in known or is_outdone(found, fitting):
                continue
            self._anchor = anchor
            return found
        return None

    @property
    def has_proposed(self) -> bool:
        """Whether the plan that is measured next is a detour."""
        return self._anchor is not None

    def learn(self, found: MeasuredPlan) -> None:
        """Take in what the plan took that was proposed last; others tell nothing."""
        anchor, self._anchor = self._anchor, None
        if anchor is None:
            return
        assert anchor.allocation is not None
        assert found.allocation is not None
        if is_step(anchor, found):
            self.left_alone |= differing_groups(anchor.allocation, found.allocation)
            return
        self._seen = changes(anchor, found)

    def _predicted(self, wanted: float) -> float:
        """The predicted change that should bring the wanted one, both as logarithms.

        The model's word weighs as much as what was seen of a change of the same size.
        """
        predicted, measured = self._seen
        word = math.copysign(max(abs(wanted), _LEAST_CHANGE), predicted)
        steepness = (measured + word) / (predicted + word)
        return wanted / min(max(steepness, _LEAST_STEEP), _MOST_STEEP)
