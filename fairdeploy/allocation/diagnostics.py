"""What the allocation gave up: R-mass removed, the bound that ToD sets, and uniform pruning's.

R-mass is a sum of R-Scores: the estimated loss change if those units go one by one. If k units go
and the share alpha of them is among the k most protected, their R-mass is at most that of the
``floor(alpha k)`` most protected units, and the R-Score of the k-th most protected one for each of
the rest. The bound holds for any k units, so it is given twice: for the prefix that the tolerance
allowed, and for what went in the end, after rounding and top-up.

The additive exchange is the R-mass that uniform pruning would have removed at the same budgets,
within the same limits and multiples, minus what was removed: above 0 speaks for the allocation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction
from fairdeploy.allocation.search import search
from fairdeploy.allocation.shared_knob import with_shared_knob
from fairdeploy.allocation.tolerance import protection_order, removal_order, tod_curve
from fairdeploy.records import (
    Allocation,
    AllocationDiagnostics,
    Budget,
    GroupDiagnostics,
    GroupScores,
)

# Keeps ``alpha * k`` from falling just below the whole number that alpha was computed from.
_ROUNDING = 1e-9


def diagnose(
    groups: Sequence[GroupScores],
    allocation: Allocation,
    cost_of: CostFunction,
    budgets: Sequence[Budget],
) -> AllocationDiagnostics:
    """Compare an allocation with its bound and with uniform pruning at the same budgets."""
    uniform = uniform_pruning(groups, cost_of, budgets)
    by_name = {
        group.name: _diagnose_group(group, allocation, uniform.removed[group.name])
        for group in groups
    }
    exchange = math.fsum(item.r_mass_uniform - item.r_mass_removed for item in by_name.values())
    return AllocationDiagnostics(by_name, uniform.tolerance, exchange)


def r_mass_bound(r: NDArray[np.float64], depth: int, alpha: float) -> float:
    """The largest R-mass that ``depth`` units can have if their ToD is at most ``alpha``.

    At most ``m = floor(alpha * depth)`` of them lie in the protected tail, so they weigh no more
    than the m highest R-Scores; each of the rest lies outside and weighs no more than the lowest
    R-Score inside, the tail's threshold.

    Args:
        r: R-Scores of the whole group, shape [N], none negative.
        depth: How many units, k.
        alpha: Limit on the share of them that is among the k most protected.
    """
    if depth == 0:
        return 0.0
    descending = -np.sort(-r)
    num_protected = math.floor(alpha * depth + _ROUNDING)
    threshold = descending[depth - 1]
    return float(descending[:num_protected].sum() + (depth - num_protected) * threshold)


def uniform_pruning(
    groups: Sequence[GroupScores], cost_of: CostFunction, budgets: Sequence[Budget]
) -> Allocation:
    """The same share from every group, lowest U-Score first, at the same budgets and limits."""
    return search(with_shared_knob(groups, "uniform"), cost_of, budgets)


def _diagnose_group(
    group: GroupScores, allocation: Allocation, removed_by_uniform: tuple[int, ...]
) -> GroupDiagnostics:
    depth = allocation.prefix_lengths[group.name]
    removed = list(allocation.removed[group.name])
    tod = float(tod_curve(group.u, group.r)[depth - 1]) if depth else 0.0
    overlap = _share_protected(group, removed)
    return GroupDiagnostics(
        tod=tod,
        r_mass_removed=float(group.r[removed].sum()),
        r_mass_prefix=float(group.r[removal_order(group.u)[:depth]].sum()),
        r_mass_bound=r_mass_bound(group.r, depth, tod),
        r_mass_uniform=float(group.r[list(removed_by_uniform)].sum()),
        share_protected=overlap,
        r_mass_bound_removed=r_mass_bound(group.r, len(removed), overlap),
        num_removed_uniform=len(removed_by_uniform),
    )


def _share_protected(group: GroupScores, removed: Sequence[int]) -> float:
    """The share of the removed units that is among as many most protected ones; 0 of none."""
    if not removed:
        return 0.0
    tail = protection_order(group.r)[: len(removed)]
    return float(np.isin(removed, tail).mean())
