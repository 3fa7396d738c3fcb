"""The top-up: spends what the tolerance left of the budget on the most valuable removed units.

A unit's value is its raw R-Score. R estimates how much the mean loss changes if the unit goes, in
the loss's own unit in every group, so groups compare as they are; normalising within a group would
make a useless layer's best unit look as good as a vital layer's best. The price of a unit is the
share of the budgets that it would spend, so the order is R-Score per unit of cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Overspending = Callable[[Counts], NDArray[np.float64]]

# Prices rise as neighbouring groups grow, so a round spends only this share of what is left
# and then asks again. Smaller follows the greedy order more closely and takes more rounds.
_SHARE_PER_ROUND = 0.5


def give_back(
    removed: Sequence[Counts], r: Sequence[NDArray[np.float64]], overspending: Overspending
) -> list[Counts]:
    """Return removed units to the network, highest R-Score per unit of cost first.

    Args:
        removed: Per group, local indices of the removed units; together they meet the budgets.
        r: Per group, R-Scores of all its units.
        overspending: From kept counts [B, G] to cost over limit, as a share of the limit,
            [B, metrics]; at most 0 where the budgets are met.

    Returns:
        What is still removed. No single unit of it can be given back without breaking a budget.
    """
    pool = _Pool(removed, r)
    kept = np.array([len(scores) for scores in r], dtype=np.int64) - pool.counts()
    while True:
        slack, prices, fits = _prices(kept, pool.counts(), overspending)
        if not fits.any():
            return pool.units_by_group(len(removed))
        order = pool.most_valuable_first(prices, fits)
        num_given = _longest_affordable(order, pool, kept, slack, overspending)
        kept = kept + pool.take(order[:num_given], len(kept))


class _Pool:
    """Removed units of all groups as flat arrays."""

    def __init__(self, removed: Sequence[Counts], r: Sequence[NDArray[np.float64]]) -> None:
        self._num_groups = len(removed)
        empty_units, empty_scores = np.empty(0, dtype=np.int64), np.empty(0)
        self.units = np.concatenate([empty_units, *removed])
        self.groups = np.repeat(np.arange(len(removed)), [len(units) for units in removed])
        self._r = np.concatenate(
            [empty_scores, *(scores[units] for scores, units in zip(r, removed, strict=True))]
        )

    def counts(self) -> Counts:
        """Removed units per group, shape [G]."""
        return np.bincount(self.groups, minlength=self._num_groups).astype(np.int64)

    def most_valuable_first(self, prices: NDArray[np.float64], fits: NDArray[np.bool_]) -> Counts:
        """Indices of the units in groups that fit, best R per price first, then by position."""
        candidates = np.flatnonzero(fits[self.groups])
        price, value = prices[self.groups[candidates]], self._r[candidates]
        # A unit that costs nothing comes first whatever its value.
        ratio = np.divide(value, price, out=np.full_like(value, np.inf), where=price > 0)
        order = np.lexsort((self.units[candidates], self.groups[candidates], -value, -ratio))
        return candidates[order]

    def take(self, indices: Counts, num_groups: int) -> Counts:
        """Drop units from the pool (changes it); returns how many of each group, shape [G]."""
        taken = np.bincount(self.groups[indices], minlength=num_groups).astype(np.int64)
        stays = np.ones(len(self.units), dtype=np.bool_)
        stays[indices] = False
        self.units, self.groups, self._r = self.units[stays], self.groups[stays], self._r[stays]
        return taken

    def units_by_group(self, num_groups: int) -> list[Counts]:
        """Local indices of the units, per group."""
        return [self.units[self.groups == group] for group in range(num_groups)]


def _prices(
    kept: Counts, removed_counts: Counts, overspending: Overspending
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What is left of each budget [metrics], the price of one unit of each group, and who fits."""
    one_more = kept + np.eye(len(kept), dtype=np.int64)
    over = overspending(np.concatenate([kept[None], one_more]))
    prices: NDArray[np.float64] = (over[1:] - over[0]).sum(axis=1)
    fits = (over[1:] <= 0).all(axis=1) & (removed_counts > 0)
    return -over[0], prices, fits


def _longest_affordable(
    order: Counts,
    pool: _Pool,
    kept: Counts,
    slack: NDArray[np.float64],
    overspending: Overspending,
) -> int:
    """How many units of ``order`` to give in this round: within its share of the slack, or one."""
    low, high = 1, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        given = np.bincount(pool.groups[order[:middle]], minlength=len(kept))
        over = overspending((kept + given)[None])[0]
        if (over <= -slack * (1 - _SHARE_PER_ROUND)).all():
            low = middle
        else:
            high = middle - 1
    return low
