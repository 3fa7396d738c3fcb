"""Plans that were measured in the search for a latency budget, and what two of them tell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from fairdeploy.records import Allocation, TimedPlan

AIM = 0.985
"""Share of the budget that proposals aim at: halfway between the budget and 3 % under it."""
CLOSE_ENOUGH = 0.97
"""From this share of the budget on, a plan is worth confirming."""
NEAR = 0.06
"""Plans farther apart, by predicted time, differ in too many groups to tell where a step is."""
STEEP = 3.0
"""Where the time changes so many times as much as the model says, there is a step between."""

_MAX_RACES = 3
"""Of one plan; what is not confirmed by then counts as over the budget."""


@dataclass(slots=True)
class MeasuredPlan:
    """A plan with the share of the budget that each race of it took."""

    proxy: float
    """The share of the original's latency that the model predicts."""
    races: list[float]
    timed: TimedPlan
    allocation: Allocation | None = None
    is_confirmed: bool = False

    @property
    def used(self) -> float:
        """One race alone may be a percent off, so their mean."""
        return fmean(self.races)

    @property
    def is_close(self) -> bool:
        """Whether it is worth confirming, or still close where it was confirmed."""
        return min(self.used, self.races[-1]) >= CLOSE_ENOUGH

    @property
    def fits(self) -> bool:
        """Whether it is within the budget, as far as its races tell."""
        return self.used <= 1 and (self.is_confirmed or len(self.races) < _MAX_RACES)


def changes(one: MeasuredPlan, other: MeasuredPlan) -> tuple[float, float]:
    """Logarithms of how the predicted and the measured time change from one plan to the other."""
    return math.log(other.proxy / one.proxy), math.log(other.used / one.used)


def is_step(one: MeasuredPlan, other: MeasuredPlan) -> bool:
    """Whether the time jumps over all that is close to the budget, far more than predicted."""
    low, high = sorted((one.used, other.used))
    predicted, measured = map(abs, changes(one, other))
    return low < CLOSE_ENOUGH and high > 1 and predicted <= NEAR and measured >= STEEP * predicted


def differing_groups(one: Allocation, other: Allocation) -> frozenset[str]:
    """Names of the groups that keep more in one plan than in the other."""
    return frozenset(
        name for name, units in one.removed.items() if len(units) != len(other.removed[name])
    )


def is_outdone(allocation: Allocation, plans: Iterable[MeasuredPlan]) -> bool:
    """Whether one of the plans, none of which is slower, has more MACs and as many parameters."""
    costs = allocation.costs
    return any(
        plan.allocation.costs["macs"] > costs["macs"]
        and plan.allocation.costs["params"] >= costs["params"]
        for plan in plans
        if plan.allocation
    )
