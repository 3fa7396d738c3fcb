"""Finds the plan that just meets the budgets: bisect the shared tolerance, then give units back.

Every group is pruned to the deepest prefix that the tolerance allows. Costs fall in steps as the
tolerance rises, so the smallest tolerance that meets the budgets usually removes more than was
asked; the top-up returns units until no other fits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairdeploy.allocation.amounts import describe_range
from fairdeploy.allocation.limits import CostFunction, Counts, Limits
from fairdeploy.allocation.tolerance import removal_order
from fairdeploy.allocation.tolerance_steps import critical_tolerances, depth_steps, depths_at
from fairdeploy.allocation.top_up import give_back
from fairdeploy.errors import BudgetError
from fairdeploy.records import Allocation, Budget, GroupScores


def reachable_range(
    groups: Sequence[GroupScores], cost_of: CostFunction
) -> dict[str, tuple[float, float]]:
    """Smallest cost that any allowed plan has, and the original's, by metric."""
    sizes = _sizes(groups)
    most = np.array([group.max_removed for group in groups], dtype=np.int64)
    costs = cost_of(np.stack([_rounded_up(groups, sizes - most), sizes]))
    return {metric: (float(values[0]), float(values[1])) for metric, values in costs.items()}


def check_reachable(
    groups: Sequence[GroupScores], cost_of: CostFunction, budgets: Sequence[Budget]
) -> None:
    """Refuse budgets that no allowed plan meets; the scores are not looked at.

    Raises:
        BudgetError: With the smallest reachable cost and the original's.
    """
    reachable = reachable_range(groups, cost_of)
    for budget in budgets:
        smallest, original = reachable[budget.metric]
        if smallest > budget.allowed(original):
            raise BudgetError(
                f"cannot reach {budget.text}: {describe_range(budget.metric, smallest, original)}; "
                "raise the budget, or see with 'fairdeploy inspect' what cannot be removed and why"
            )


def search(
    groups: Sequence[GroupScores], cost_of: CostFunction, budgets: Sequence[Budget]
) -> Allocation:
    """Choose the units that go so that every budget is met, and none could be given back.

    Where a group has a ``step``, none means no block of that many units.

    Args:
        groups: Scores of each group, in the order of ``cost_of``'s columns.
        cost_of: Costs of kept counts; it must know every budget's metric.
        budgets: At least one; all must hold.

    Returns:
        The same for the same input. ``tolerance`` is the smallest one that meets the budgets,
        0 where the network meets them as it is (then nothing goes).

    Raises:
        BudgetError: Not even the smallest allowed plan meets a budget; nothing has been searched.
    """
    check_reachable(groups, cost_of, budgets)
    sizes = _sizes(groups)
    limits = Limits.of(budgets, cost_of, sizes)
    tolerance, depths = _smallest_tolerance(groups, sizes, limits)
    pruned = sizes - _rounded_up(groups, sizes - depths)
    removed = give_back(
        [removal_order(group.u)[:count] for group, count in zip(groups, pruned, strict=True)],
        groups,
        limits.overspending,
    )
    kept = sizes - np.array([len(units) for units in removed], dtype=np.int64)
    names = [group.name for group in groups]
    return Allocation(
        tolerance=tolerance,
        removed={
            name: tuple(int(unit) for unit in units)
            for name, units in zip(names, removed, strict=True)
        },
        prefix_lengths={name: int(k) for name, k in zip(names, depths, strict=True)},
        costs={metric: float(values[0]) for metric, values in cost_of(kept[None]).items()},
        num_evaluations=limits.num_evaluations,
    )


def _smallest_tolerance(
    groups: Sequence[GroupScores], sizes: Counts, limits: Limits
) -> tuple[float, Counts]:
    """The smallest tolerance that meets the limits, exactly, and each group's depth there."""
    if limits.are_met(sizes):
        return 0.0, np.zeros_like(sizes)
    steps = [depth_steps(group) for group in groups]
    tolerances = critical_tolerances(steps)
    index = limits.first_met(
        lambda position: _rounded_up(groups, sizes - depths_at(steps, tolerances[position])),
        len(tolerances),
    )
    return float(tolerances[index]), depths_at(steps, tolerances[index])


def _rounded_up(groups: Sequence[GroupScores], kept: Counts) -> Counts:
    """Each group's kept count, shape [G], at the next multiple of its step, or all of it."""
    steps = np.array([group.step for group in groups], dtype=np.int64)
    multiples: Counts = np.minimum(-(-kept // steps) * steps, _sizes(groups))
    return multiples


def _sizes(groups: Sequence[GroupScores]) -> Counts:
    return np.array([len(group.u) for group in groups], dtype=np.int64)
