"""Finds the plan that just meets the budgets: bisect the shared tolerance, then give units back.

Every group is pruned to the deepest prefix that the tolerance allows, rounded so that what stays is
the nearest multiple of its step. Costs fall in steps as the tolerance rises, so the smallest
tolerance that meets the budgets usually removes more than was asked; the top-up returns units until
no other fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.amounts import describe_range, share_text
from fairdeploy.allocation.limits import CostFunction, Counts, Limits
from fairdeploy.allocation.multiples import nearest_kept, smallest_kept
from fairdeploy.allocation.tolerance import removal_order, tod_curve
from fairdeploy.allocation.top_up import give_back
from fairdeploy.errors import BudgetError
from fairdeploy.records import Allocation, Budget, GroupScores


def reachable_range(
    groups: Sequence[GroupScores], cost_of: CostFunction
) -> dict[str, tuple[float, float]]:
    """Smallest cost that any allowed plan has, and the original's, by metric."""
    sizes, most, steps = _limits(groups)
    costs = cost_of(np.stack([smallest_kept(sizes, most, steps), sizes]))
    return {metric: (float(values[0]), float(values[1])) for metric, values in costs.items()}


def check_reachable(
    groups: Sequence[GroupScores],
    cost_of: CostFunction,
    budgets: Sequence[Budget],
    relaxed: Mapping[str, Sequence[GroupScores]] | None = None,
    hint: Callable[[], str] = str,
) -> None:
    """Refuse budgets that no allowed plan meets; the scores are not looked at.

    Args:
        groups: With their caps and steps.
        cost_of: Costs of kept counts.
        budgets: All must hold.
        relaxed: By option that the user gave: the same groups without it. Where there are several,
            the last entry is without all of them.
        hint: Tells what else could be done, ending in a comma and a space; only asked then.

    Raises:
        BudgetError: With the smallest reachable cost, the original's, and the option that limits
            most.
    """
    reachable = reachable_range(groups, cost_of)
    for budget in budgets:
        smallest, original = reachable[budget.metric]
        if smallest > budget.allowed(original):
            without = {
                option: reachable_range(others, cost_of)[budget.metric][0]
                for option, others in (relaxed or {}).items()
            }
            raise BudgetError(
                f"cannot reach {budget.text}: {describe_range(budget.metric, smallest, original)}; "
                f"{_limiting(without, smallest, original)}raise the budget, {hint()}"
                "or see with 'fairdeploy inspect' what cannot be removed and why"
            )


def smallest_plan(groups: Sequence[GroupScores]) -> dict[str, tuple[int, ...]]:
    """Local indices of the units that go if as many go as may, by group; scores do not matter."""
    sizes, most, steps = _limits(groups)
    kept = smallest_kept(sizes, most, steps)
    return {
        group.name: tuple(range(int(size - left)))
        for group, size, left in zip(groups, sizes, kept, strict=True)
    }


def _limiting(without: Mapping[str, float], smallest: float, original: float) -> str:
    """The option whose absence would reach furthest; all together if no single one would help."""
    *single, everything = without or {"": smallest}
    candidates = single or [everything]
    option = min(candidates, key=lambda name: without.get(name, smallest))
    verb, pronoun = "limits", "it"
    if without.get(option, smallest) >= smallest:
        option, verb, pronoun = everything, "together limit", "them"
    if without.get(option, smallest) >= smallest:
        return ""
    return f"{option} {verb} most (without {pronoun}: {share_text(without[option], original)}); "


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
        The same for the same input; scores that only rounding tells apart should come as equal
        (``graph.near_ties``), so that another machine finds the same plan. ``tolerance`` is the
        smallest one that meets the budgets, 0 where the network meets them as it is (then nothing
        goes).

    Raises:
        BudgetError: Not even the smallest allowed plan meets a budget; nothing has been searched.
    """
    check_reachable(groups, cost_of, budgets)
    sizes = _limits(groups)[0]
    limits = Limits.of(budgets, cost_of, sizes)
    tolerance, depths = _smallest_tolerance(groups, sizes, limits)
    pruned = sizes - _rounded(groups, depths)
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
        lambda position: _rounded(groups, depths_at(steps, tolerances[position])),
        len(tolerances),
    )
    return float(tolerances[index]), depths_at(steps, tolerances[index])


def _rounded(groups: Sequence[GroupScores], depths: Counts) -> Counts:
    """What each group keeps if the tolerance asks it to lose ``depths``, shape [G]."""
    sizes, most, steps = _limits(groups)
    return nearest_kept(sizes - depths, sizes, most, steps)


def _limits(groups: Sequence[GroupScores]) -> tuple[Counts, Counts, Counts]:
    """Size, most removed and step of each group, each of shape [G]."""
    rows = [(len(group.u), group.max_removed, group.step) for group in groups]
    sizes, most, steps = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return sizes, most, steps


# ---- depth of the removal prefix as a step function of the tolerance -----------------------------


@dataclass(frozen=True, slots=True)
class DepthSteps:
    """The tolerances at which one group's depth jumps, and to what; both strictly ascending."""

    tolerances: NDArray[np.float64]
    depths: NDArray[np.int64]

    def depth_at(self, tolerance: float) -> int:
        """What ``deepest_prefix`` gives; 0 below the first step."""
        step = int(np.searchsorted(self.tolerances, tolerance, side="right"))
        return int(self.depths[step - 1]) if step else 0


def depth_steps(group: GroupScores) -> DepthSteps:
    """Steps of one group, up to its ``max_removed``, by the knob that all groups share.

    The knob is the tolerance, unless the group says otherwise.
    """
    if group.knob is not None:
        return _knob_steps(group.knob[: group.max_removed])
    if group.tolerances is not None:
        return _knob_steps(group.tolerances[: group.max_removed])
    head = tod_curve(group.u, group.r)[: group.max_removed]
    # Depth k is ever chosen only if every deeper prefix needs a higher tolerance.
    lowest_deeper = np.append(np.minimum.accumulate(head[::-1])[::-1][1:], np.inf)
    depths = np.flatnonzero(head < lowest_deeper[: len(head)]) + 1
    own_tolerances = head[depths - 1]
    shared = group.reluctance + (1.0 - group.reluctance) * own_tolerances
    return DepthSteps(shared, depths.astype(np.int64))


def _knob_steps(knob: NDArray[np.float64]) -> DepthSteps:
    """Of units that go at the same value, all go."""
    values, counts = np.unique(knob, return_counts=True)
    return DepthSteps(values, np.cumsum(counts).astype(np.int64))


def critical_tolerances(steps: Sequence[DepthSteps]) -> NDArray[np.float64]:
    """All tolerances at which any group's depth jumps, ascending, and 0."""
    return np.unique(np.concatenate([np.zeros(1), *(group.tolerances for group in steps)]))


def depths_at(steps: Sequence[DepthSteps], tolerance: float) -> NDArray[np.int64]:
    """Depth of every group at one shared tolerance, shape [G]."""
    return np.array([group.depth_at(tolerance) for group in steps], dtype=np.int64)
