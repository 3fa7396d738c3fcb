"""What the allocation gave up: R-mass removed, the bound that ToD sets, and uniform pruning's.

R-mass is a sum of R-Scores: the estimated loss change if those units go one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction, Limits
from fairdeploy.allocation.tolerance import removal_order, tod_curve
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
    fraction, uniform_depths = uniform_pruning(groups, cost_of, budgets)
    by_name = {
        group.name: _diagnose_group(group, allocation, int(depth))
        for group, depth in zip(groups, uniform_depths, strict=True)
    }
    exchange = math.fsum(item.r_mass_uniform - item.r_mass_removed for item in by_name.values())
    return AllocationDiagnostics(by_name, fraction, exchange)


def r_mass_bound(r: NDArray[np.float64], depth: int, alpha: float) -> float:
    """The largest R-mass that ``depth`` units can have if their ToD is at most ``alpha``.

    At most ``m = floor(alpha * depth)`` of them lie in the protected tail, so they weigh no more
    than the m highest R-Scores; each of the rest lies outside and weighs no more than the lowest
    R-Score inside, the tail's threshold.

    Args:
        r: R-Scores of the whole group, shape [N], none negative.
        depth: Length k of the prefix.
        alpha: Limit on its ToD.
    """
    if depth == 0:
        return 0.0
    descending = -np.sort(-r)
    num_protected = math.floor(alpha * depth + _ROUNDING)
    threshold = descending[depth - 1]
    return float(descending[:num_protected].sum() + (depth - num_protected) * threshold)


def uniform_pruning(
    groups: Sequence[GroupScores], cost_of: CostFunction, budgets: Sequence[Budget]
) -> tuple[float, NDArray[np.int64]]:
    """The smallest share, the same for every group, whose removal meets the budgets.

    Returns:
        The share, and each group's depth [G]. Units go lowest U-Score first, and no group loses
        more than its ``max_removed``.
    """
    sizes = np.array([len(group.u) for group in groups], dtype=np.int64)
    most = np.array([group.max_removed for group in groups], dtype=np.int64)
    limits = Limits.of(budgets, cost_of, sizes)
    shares = np.unique(np.concatenate([np.arange(size + 1) / size for size in {1, *sizes}]))

    def depths(share: float) -> NDArray[np.int64]:
        return np.minimum((share * sizes + _ROUNDING).astype(np.int64), most)

    index = limits.first_met(lambda position: sizes - depths(shares[position]), len(shares))
    return float(shares[index]), depths(shares[index])


def _diagnose_group(
    group: GroupScores, allocation: Allocation, uniform_depth: int
) -> GroupDiagnostics:
    depth = allocation.prefix_lengths[group.name]
    order = removal_order(group.u)
    tod = float(tod_curve(group.u, group.r)[depth - 1]) if depth else 0.0
    return GroupDiagnostics(
        tod=tod,
        r_mass_removed=float(group.r[list(allocation.removed[group.name])].sum()),
        r_mass_prefix=float(group.r[order[:depth]].sum()),
        r_mass_bound=r_mass_bound(group.r, depth, tod),
        r_mass_uniform=float(group.r[order[:uniform_depth]].sum()),
    )
