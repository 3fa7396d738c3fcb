"""Trades blocks of units between groups where that is faster and loses no R-mass.

The shared tolerance does not ask what a unit costs. Where one layer's units save much time and
another's little, the latter can come back for fewer of the former: each trade takes a block from
one group and gives blocks to another, such that the network gets faster (by the latency model),
keeps at least the R-mass that it had, and stays within its budgets. Trades that keep the latency
and gain R-mass count too. Nothing is traded that does not improve one without harming the other.

Residual blocks stay as the tolerance left them: the R-Score of one counts those that went before it
too, and is no mass that a trade could weigh against that of channels. What costs no time to bring
back lies inside a block that is gone, and brings nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction, Counts, Limits
from fairdeploy.allocation.tolerance import removal_order
from fairdeploy.graph.near_ties import settled
from fairdeploy.records import Allocation, Budget, GroupScores

MAX_TRADES = 2000
"""Far more than blocks in any network that was tried; a bound on time."""
# Groups on either side that are tried in a round.
_PARTNERS = 12
# Improvements below this share are rounding.
_LEAST = 1e-9


@dataclass(slots=True)
class _Book:
    """What each group keeps, and the order in which its units go."""

    groups: Sequence[GroupScores]
    orders: list[Counts]
    removed: Counts
    """Units that are gone, shape [G]: always a prefix of ``orders``."""

    def takes(self) -> Counts:
        """Units in the next block that could go from each group, 0 if none may; [G]."""
        return np.array(
            [
                self._take(group, int(gone))
                for group, gone in zip(self.groups, self.removed, strict=True)
            ],
            dtype=np.int64,
        )

    def _take(self, group: GroupScores, gone: int) -> int:
        """What stays is a multiple of the step; a stream that is whole stays so."""
        if _is_block(group):
            return 0
        count = group.step if gone else (len(group.u) - 1) % group.step + 1
        is_allowed = gone + count <= group.max_removed and (gone or not group.reluctance)
        return count if is_allowed else 0

    def gives(self) -> Counts:
        """Units in the block that each group would get back first; [G]."""
        return np.array(
            [
                0 if _is_block(group) else min(group.step, int(gone))
                for group, gone in zip(self.groups, self.removed, strict=True)
            ],
            dtype=np.int64,
        )

    def r_lost(self, taken: Counts) -> NDArray[np.float64]:
        """R-mass that each group would lose with its next block; infinite where there is none."""
        return np.array(
            [
                group.r[order[gone : gone + count]].sum() if count else np.inf
                for group, order, gone, count in
                zip(self.groups, self.orders, self.removed, taken, strict=True)
            ]
        )  # fmt: skip

    def r_gained(self, given: Counts) -> NDArray[np.float64]:
        """R-mass that each group would get back; minus infinity where nothing is removed."""
        return np.array(
            [
                group.r[order[gone - count : gone]].sum() if count else -np.inf
                for group, order, gone, count in
                zip(self.groups, self.orders, self.removed, given, strict=True)
            ]
        )  # fmt: skip


def traded(
    allocation: Allocation,
    groups: Sequence[GroupScores],
    cost_of: CostFunction,
    budgets: Sequence[Budget],
) -> Allocation:
    """The allocation after all trades; the same where there is none to make.

    In groups that trade, the units with the lowest U-Score go.

    Args:
        allocation: Meets the budgets.
        groups: In the order of ``cost_of``'s columns.
        cost_of: Costs of kept counts; must know ``latency``.
        budgets: Hold before and after.
    """
    sizes = np.array([len(group.u) for group in groups], dtype=np.int64)
    before = np.array([len(allocation.removed[group.name]) for group in groups], dtype=np.int64)
    book = _Book(groups, [removal_order(group.u) for group in groups], before.copy())
    limits = Limits.of(budgets, cost_of, sizes)
    for _ in range(MAX_TRADES):
        change = _best_trade(book, sizes, cost_of, limits)
        if change is None:
            break
        book.removed = book.removed + change
    removed = {
        group.name: allocation.removed[group.name]
        if old == new
        else tuple(sorted(int(unit) for unit in order[:new]))
        for group, order, old, new in zip(groups, book.orders, before, book.removed, strict=True)
    }
    costs = {name: float(c[0]) for name, c in cost_of((sizes - book.removed)[None]).items()}
    return replace(allocation, removed=removed, costs=costs)


def _is_block(group: GroupScores) -> bool:
    return group.tolerances is not None


def _best_trade(book: _Book, sizes: Counts, cost_of: CostFunction, limits: Limits) -> Counts | None:
    """The change of removed counts [G] that gains most time and R-mass; None if none does."""
    kept = sizes - book.removed
    now = float(cost_of(kept[None])["latency"][0])
    taken, given = book.takes(), book.gives()
    masses = np.concatenate([book.r_lost(taken), book.r_gained(given)])
    lost, gained = np.split(settled(masses), 2)
    pairs = [
        (one, two)
        for one in _cheapest(lost, now - cost_of(kept - np.diag(taken))["latency"])
        for two in _dearest(gained, cost_of(kept + np.diag(given))["latency"] - now)
        if one != two and gained[two] >= lost[one]
    ]
    if not pairs:
        return None
    changes = np.zeros((len(pairs), len(sizes)), dtype=np.int64)
    for row, (one, two) in enumerate(pairs):
        changes[row, one], changes[row, two] = taken[one], -given[two]
    saved = now - cost_of(kept - changes)["latency"]
    saved[np.abs(saved) <= _LEAST * now] = 0.0
    won = np.array([gained[two] - lost[one] for one, two in pairs])
    total = max(float(sum(np.abs(group.r).sum() for group in book.groups)), _LEAST)
    worth = saved / max(now, _LEAST) + won / total
    fits = (saved >= 0) & (limits.overspending(kept - changes) <= 0).all(axis=1)
    worth[~fits] = 0.0
    best = int(np.argmax(settled(worth)))
    return changes[best] if worth[best] > _LEAST else None


def _cheapest(lost: NDArray[np.float64], saved_ms: NDArray[np.float64]) -> list[int]:
    """Groups whose next block saves most time for the R-mass that goes with it."""
    price = np.where(
        np.isfinite(lost) & (saved_ms > 0), lost / np.maximum(saved_ms, _LEAST), np.inf
    )
    order = np.argsort(settled(price), kind="stable")[:_PARTNERS]
    return [int(one) for one in order if price[one] < np.inf]


def _dearest(gained: NDArray[np.float64], cost_ms: NDArray[np.float64]) -> list[int]:
    """Groups whose last block brings most R-mass back for the time that it costs."""
    is_worth = np.isfinite(gained) & (cost_ms > _LEAST)
    worth = np.where(is_worth, gained / np.maximum(cost_ms, _LEAST), -np.inf)
    order = np.argsort(-settled(worth), kind="stable")[:_PARTNERS]
    return [int(two) for two in order if worth[two] > -np.inf]
