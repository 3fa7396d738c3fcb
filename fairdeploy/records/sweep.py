"""What a sweep plans and measures: the networks between the smallest and the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fairdeploy.records.accuracy import AccuracyEstimate, PairedDifference
from fairdeploy.records.allocation import Allocation, Budget, TimedPlan
from fairdeploy.records.metrics import MetricName
from fairdeploy.records.surgery import ProofResult

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """A budget to plan for, and which shares that were asked for it answers."""

    budget: Budget
    asked_percents: tuple[float, ...] = ()
    """Those below the smallest that can be reached, for which it stands; else empty."""


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One plan of the sweep. Budgets that give the same plan share a point."""

    name: str
    """``params-39``: metric and per cent, good for a file name."""
    budget: Budget
    """The largest budget that gives this plan."""
    also_for: tuple[str, ...]
    """Smaller budgets that give the same plan, as text."""
    allocation: Allocation
    r_mass_share: float
    """Share of all R-Scores of removable units that goes, 0 to 1."""
    num_removed: int
    """Units, of all blocks."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """A network of the frontier, measured. The original has neither plan nor proof."""

    name: str
    plan: PlannedPoint | None
    costs: Mapping[str, float]
    r_mass_share: float
    proof: ProofResult | None = None
    accuracy: AccuracyEstimate | None = None
    """After repair, on the test images."""
    latency: TimedPlan | None = None
    """Raced against the original."""
    answers: Tensor | None = None
    """What it answers, by test image; None where accuracy was not measured."""
    seconds: float = 0.0
    """That it took to make and measure."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a network is, and the range that cannot be told from it; larger is better.

    The range is about the difference to the best: the best one's value, and the paired interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TradeOff:
    """Which points are worth having, and the one where paying more stops to pay."""

    quality: Literal["accuracy", "r_mass_kept"]
    non_dominated: tuple[bool, ...]
    """By point: no other is as cheap and as good, and better in one of the two."""
    knee: int | None
    reason: str
    """Why that one, or why there is none."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """All points, the original first and then falling in cost."""

    metric: MetricName
    smallest: float
    """What the smallest allowed plan costs in this metric."""
    points: tuple[SweepPoint, ...]
    trade_off: TradeOff
    differences: tuple[PairedDifference | None, ...]
    """By point: accuracy minus the original's; None where it was not measured."""
    notes: tuple[str, ...]
    """What came out otherwise than asked: shares out of reach, equal plans."""
