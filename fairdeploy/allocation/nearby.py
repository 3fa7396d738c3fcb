"""A plan near another one that should take a given time: single blocks come back or go.

The plans for all values of the shared tolerance lie on one path, and where the device's time has a
step, no plan on it may be close to a budget. From a plan on either side of the step, blocks of
units are given back where they bring most R-mass for the time that the latency model says, or go
where they cost least R-mass for the time that they save; groups in which the step may lie stay as
they are. Residual streams that are whole stay whole.

Where another rule than ToD shares out (see ``shared_knob``), its knob is turned a little further or
back, group by group, whatever the units cost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction, Counts, Limits
from fairdeploy.allocation.shared_knob import knob_of_units
from fairdeploy.allocation.tolerance import removal_order
from fairdeploy.graph.near_ties import settled
from fairdeploy.records import Allocation, Budget, GroupScores

CLOSE = 0.008
"""Share of the asked time by which what the model predicts may be off."""
MAX_MOVES = 2000
"""Far more than blocks in any network that was tried; a bound on time."""

# Milliseconds below this are rounding.
_LEAST_MS = 1e-12


def nearby_plan(
    allocation: Allocation,
    groups: Sequence[GroupScores],
    cost_of: CostFunction,
    budgets: Sequence[Budget],
    *,
    latency_ms: float,
    fixed: Collection[str] = (),
) -> Allocation | None:
    """The plan with blocks given back, or more of them gone, until it should take ``latency_ms``.

    Args:
        allocation: Meets the budgets.
        groups: In the order of ``cost_of``'s columns.
        cost_of: Costs of kept counts; must know ``latency``, in milliseconds.
        budgets: Hold before and after.
        latency_ms: Asked for.
        fixed: Names of the groups that stay as they are.

    Returns:
        None where no blocks come within ``CLOSE`` of what is asked. The same for the same input.
    """
    sizes = np.array([len(group.u) for group in groups], dtype=np.int64)
    stock = _Stock(allocation, groups, fixed)
    limits = Limits.of(budgets, cost_of, sizes) if budgets else None
    low, high = latency_ms * (1 - CLOSE), latency_ms * (1 + CLOSE)
    for _ in range(MAX_MOVES):
        kept = sizes - stock.num_removed()
        now = float(cost_of(kept[None])["latency"][0])
        if low <= now <= high:
            costs = {name: float(cost[0]) for name, cost in cost_of(kept[None]).items()}
            return replace(allocation, removed=stock.removed(), costs=costs)
        blocks = stock.returning() if now < low else stock.going()
        changes = np.diag([len(block) for block in blocks]) * (1 if now < low else -1)
        after = cost_of(kept + changes)["latency"]
        fits = changes.any(axis=1) & (after >= low if now > high else after <= high)
        if limits is not None:
            fits &= (limits.overspending(kept + changes) <= 0).all(axis=1)
        if not fits.any():
            return None
        prices = stock.prices(blocks, np.abs(after - now))
        best = np.where(fits, -prices if now < low else prices, np.inf)
        stock.flip(int(np.argmin(settled(best))), blocks)
    return None


class _Stock:
    """Which units of each group are gone, and which block would return or go next."""

    def __init__(
        self, allocation: Allocation, groups: Sequence[GroupScores], fixed: Collection[str]
    ) -> None:
        self._groups = groups
        self._fixed = fixed
        self._is_priced = all(group.knob is None for group in groups)
        self._orders = [removal_order(group.u) for group in groups]
        self._worth = [group.r if group.knob is None else knob_of_units(group) for group in groups]
        self._gone: list[NDArray[np.bool_]] = []
        for group in groups:
            mask = np.zeros(len(group.u), dtype=np.bool_)
            mask[list(allocation.removed[group.name])] = True
            self._gone.append(mask)

    def num_removed(self) -> Counts:
        """Units of each group that are gone, shape [G]."""
        return np.array([int(mask.sum()) for mask in self._gone], dtype=np.int64)

    def removed(self) -> dict[str, tuple[int, ...]]:
        """The same as local indices, ascending, by group."""
        return {
            group.name: tuple(int(unit) for unit in np.flatnonzero(mask))
            for group, mask in zip(self._groups, self._gone, strict=True)
        }

    def returning(self) -> list[Counts]:
        """The block that each group would get back next: its most valuable units."""
        blocks = []
        for number, group in enumerate(self._groups):
            gone = np.flatnonzero(self._gone[number])
            best_first = gone[np.argsort(-self._worth[number][gone], kind="stable")]
            blocks.append(best_first[: 0 if group.name in self._fixed else group.step])
        return blocks

    def going(self) -> list[Counts]:
        """The block that would go next from each group: the lowest removal signals."""
        blocks = []
        for number, group in enumerate(self._groups):
            order, gone = self._orders[number], self._gone[number]
            left = order[~gone[order]]
            # what stays is a multiple of the step
            count = (len(left) - 1) % group.step + 1
            num_gone = len(order) - len(left)
            may_go = num_gone + count <= group.max_removed and (num_gone or not group.reluctance)
            blocks.append(left[: count if may_go and group.name not in self._fixed else 0])
        return blocks

    def prices(self, blocks: Sequence[Counts], ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """R-mass of each group's block per millisecond; the knob's value where there is one."""
        values = [
            float(worth[block].sum() / (1 if self._is_priced else max(len(block), 1)))
            for worth, block in zip(self._worth, blocks, strict=True)
        ]
        return np.array(values) / (np.maximum(ms, _LEAST_MS) if self._is_priced else 1.0)

    def flip(self, number: int, blocks: Sequence[Counts]) -> None:
        """Let a group's block return or go (changes the stock)."""
        self._gone[number][blocks[number]] ^= True
