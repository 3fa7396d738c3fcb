"""Scores, budgets, and which units go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairdeploy.records.metrics import MetricName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class UnitScores:
    """U and R of every unit, float64 [num_units], or the signals that take their places."""

    u: NDArray[np.float64]
    """Distance between classes within the layer, 1 on average; low is proposed for removal."""
    r: NDArray[np.float64]
    """Estimated change of the mean loss if the unit goes; high is protected."""
    num_classes: int
    """Classes that were compared; 0 where none were."""
    num_unmeasured: int
    """Units that the removal signal could not be measured of; their U is a rank in the group."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit: ``metric`` may be at most ``fraction`` of the original, or ``absolute`` units.

    Exactly one of the two is set. Units: parameters, MACs per image, bytes, milliseconds.
    """

    metric: MetricName
    text: str
    fraction: float | None = None
    absolute: float | None = None

    def allowed(self, original: float) -> float:
        """The largest value that meets this budget, in the metric's own unit."""
        if self.fraction is None:
            assert self.absolute is not None
            return self.absolute
        share = self.fraction * original
        whole = round(share)
        # 29 % of 100 is 29, not 28.999999999999996
        return float(whole) if math.isclose(share, whole) else share


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores of one group's N units, and how many of them may go (at most N - 1).

    In a balanced group one of each block goes at a time, so these are N sets of units.
    """

    name: str
    u: NDArray[np.float64]
    r: NDArray[np.float64]
    max_removed: int
    step: int = 1
    """What stays is a multiple of this, or all N: runtimes are fast at multiples of 4 to 16."""
    reluctance: float = 0.0
    """Shared tolerance below which this group stays whole, in [0, 1); from there on its own
    tolerance rises from 0 to 1."""
    tolerances: NDArray[np.float64] | None = None
    """Where the group is one residual branch: the shared tolerance at which it goes, shape [1]; see
    ``allocation.depth``."""
    knob: NDArray[np.float64] | None = None
    """Where the ToD rule does not decide: the value of the shared knob at which one, two, … units
    go, in the order of removal, ascending, shape [N]; see ``allocation.shared_knob``."""
    places: NDArray[np.int64] | None = None
    """Shape [N, B]: the units of the graph's group that each of the N stands for, one per block;
    None where there is one block."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which units go, by group, and how the search got there."""

    tolerance: float
    """The knob: the tolerance of the ToD rule, or the share or threshold of another rule."""
    removed: Mapping[str, tuple[int, ...]]
    """Group name to the local indices of the removed units, ascending; every group is a key."""
    prefix_lengths: Mapping[str, int]
    """Group name to the ``k`` that the knob allowed, before rounding to multiples and before
    the top-up gave units back."""
    costs: Mapping[str, float]
    num_evaluations: int


@dataclass(frozen=True, slots=True)
class GroupDiagnostics:
    """R-mass (sum of R-Scores, in units of the loss) that one group gave up."""

    tod: float
    """ToD at the prefix that the tolerance allowed; 0 where nothing went."""
    r_mass_removed: float
    """After the top-up."""
    r_mass_prefix: float
    """Before the top-up."""
    r_mass_bound: float
    """No prefix of that length with that ToD can have more."""
    r_mass_uniform: float
    """What uniform pruning at the same budgets removes."""
    share_protected: float
    """Of the units that went in the end: how many of them are among as many most protected."""
    r_mass_bound_removed: float
    """No units of that number with that share can have more R-mass than this."""
    num_removed_uniform: int
    """Units that uniform pruning removes."""


@dataclass(frozen=True, slots=True)
class AllocationDiagnostics:
    """R-mass by group name, and the sum over groups of uniform pruning's minus the plan's.

    An ``exchange`` above 0 speaks for the plan against uniform pruning at the same budgets.
    """

    groups: Mapping[str, GroupDiagnostics]
    uniform_fraction: float
    exchange: float


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """What the target took for a plan, beside the original in the same run."""

    ratio: float
    """Shrunk over original, with its 95 % interval."""
    ratio_low: float
    ratio_high: float
    original_ms: float
    shrunk_ms: float
    seconds_to_make: float = 0.0
    """To make the file that was timed."""
    seconds_to_measure: float = 0.0
    is_too_busy: bool = False
    """Whether the interval is too wide for a claim."""


@dataclass(frozen=True, slots=True)
class LatencyCandidate:
    """One plan that a latency search measured."""

    predicted_ratio: float
    """By the latency model, of the original's latency."""
    timed: TimedPlan
    used: float
    """Share of the latency budget: at most 1 where it is met."""
    params: float
    macs: float
    is_confirmation: bool = False
    """The plan was measured before; this is a fresh measurement of it."""
    is_detour: bool = False
    """The plan lies beside the path of the shared tolerance; see ``allocation.detours``."""
    remark: str = ""
    """Why it was passed over, where it was."""


@dataclass(frozen=True, slots=True)
class LatencySearch:
    """How a latency budget was met."""

    budget: str
    range_ms: tuple[float, float]
    """Of the smallest plan that is allowed, and of the original, as measured."""
    candidates: tuple[LatencyCandidate, ...]
    """In the order of their measurement."""
    ended_because: str
    accepted: TimedPlan
    """The latest measurement of the accepted plan."""
    is_confirmed: bool
    """Whether a fresh measurement found the accepted plan within the budget."""

    @property
    def num_measured(self) -> int:
        """Plans that were measured, without the confirmations."""
        return sum(not candidate.is_confirmation for candidate in self.candidates)
