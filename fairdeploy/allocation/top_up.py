"""The top-up: spends what the tolerance left of the budget on the most valuable removed units.

A unit's value is its raw R-Score. R estimates how much the mean loss changes if the unit goes, in
the loss's own unit in every group, so groups compare as they are; normalising within a group would
make a useless layer's best unit look as good as a vital layer's best. The price of a unit is the
share of the budgets that it would spend, so the order is R-Score per unit of cost.

Where another rule than ToD shares out (see ``shared_knob``), its knob is turned back instead: what
went last comes back first, whatever it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.shared_knob import knob_of_units
from fairdeploy.allocation.tolerance import removal_order
from fairdeploy.graph.near_ties import settled
from fairdeploy.records import GroupScores

Counts = NDArray[np.int64]
Overspending = Callable[[Counts], NDArray[np.float64]]

# Prices rise as neighbouring groups grow, so a round spends only this share of what is left
# and then asks again. Smaller follows the greedy order more closely and takes more rounds.
_SHARE_PER_ROUND = 0.5


def give_back(
    removed: Sequence[Counts], groups: Sequence[GroupScores], overspending: Overspending
) -> list[Counts]:
    """Return removed units to the network, highest R-Score per unit of cost first.

    Where a group has a ``step``, units return in blocks of that size; the last block, which makes
    the group whole, may be smaller.

    Args:
        removed: Per group, local indices of the removed units; together they meet the budgets.
        groups: The groups, in the same order.
        overspending: From kept counts [B, G] to cost over limit, as a share of the limit,
            [B, metrics]; at most 0 where the budgets are met.

    Returns:
        What is still removed. No group can have its next block back without breaking a budget.
    """
    pool = _Pool(removed, groups)
    sizes = np.array([len(group.u) for group in groups], dtype=np.int64)
    kept = sizes - np.array([len(units) for units in removed], dtype=np.int64)
    while True:
        next_sizes = pool.next_sizes()
        slack, prices, fits = _prices(kept, next_sizes, overspending)
        if not fits.any():
            return pool.units_by_group()
        order = pool.most_valuable_first(prices, fits)
        num_given = _longest_affordable(order, pool, kept, slack, overspending)
        kept = kept + pool.num_units(order[:num_given])
        pool.take(order[:num_given])


class _Pool:
    """Removed units of all groups in blocks that return together, as flat arrays."""

    def __init__(self, removed: Sequence[Counts], groups: Sequence[GroupScores]) -> None:
        self._num_groups = len(groups)
        self._units: list[Counts] = []
        self._is_priced = all(group.knob is None for group in groups)
        owners, values = [], []
        for number, (units, group) in enumerate(zip(removed, groups, strict=True)):
            # The best units share the first block, so that a group's blocks return in order.
            best_first, worth = _best_first(units, group)
            for start in range(0, len(units), group.step):
                block = best_first[start : start + group.step]
                self._units.append(block)
                owners.append(number)
                total = worth[block].sum() if self._is_priced else worth[block].mean()
                values.append(float(total))
        self._owners = np.array(owners, dtype=np.int64)
        self._values = np.array(values, dtype=np.float64)
        self._sizes = np.array([len(block) for block in self._units], dtype=np.int64)
        self._is_removed = np.ones(len(self._units), dtype=np.bool_)

    def next_sizes(self) -> Counts:
        """Units in the block that each group would get back next, 0 if nothing is removed; [G]."""
        left = np.flatnonzero(self._is_removed)
        sizes = np.zeros(self._num_groups, dtype=np.int64)
        owners, first = np.unique(self._owners[left], return_index=True)
        sizes[owners] = self._sizes[left[first]]
        return sizes

    def most_valuable_first(self, prices: NDArray[np.float64], fits: NDArray[np.bool_]) -> Counts:
        """Removed blocks of the groups that fit, best R per price first, then by position.

        Where there is a knob, what it took last comes first.
        """
        blocks = np.flatnonzero(self._is_removed & fits[self._owners])
        price, value = prices[self._owners[blocks]], self._values[blocks]
        # What costs nothing comes last: it lies in a residual branch that is gone, which is cheaper
        # to have back while it is narrow.
        ratio = np.divide(value, price, out=np.full_like(value, -1.0), where=price > 0)
        ratio = settled(ratio if self._is_priced else value)
        order: Counts = blocks[np.lexsort((blocks, -settled(value), -ratio))]
        return order

    def num_units(self, blocks: Counts) -> Counts:
        """Units of each group in these blocks, shape [G]."""
        counts = np.zeros(self._num_groups, dtype=np.int64)
        np.add.at(counts, self._owners[blocks], self._sizes[blocks])
        return counts

    def take(self, blocks: Counts) -> None:
        """Give these blocks back to the network (changes the pool)."""
        self._is_removed[blocks] = False

    def units_by_group(self) -> list[Counts]:
        """Local indices of the units that are still removed, ascending, per group."""
        left: list[list[Counts]] = [[] for _ in range(self._num_groups)]
        for block in np.flatnonzero(self._is_removed):
            left[self._owners[block]].append(self._units[block])
        empty = np.empty(0, dtype=np.int64)
        return [np.sort(np.concatenate([empty, *blocks])) for blocks in left]


def _best_first(units: Counts, group: GroupScores) -> tuple[Counts, NDArray[np.float64]]:
    """Removed units in the order in which they should return, and what each unit is worth [N]."""
    if group.knob is not None:
        order = removal_order(group.u)
        return order[np.isin(order, units)][::-1], knob_of_units(group)
    ordered = np.sort(units)
    return ordered[np.argsort(-group.r[ordered], kind="stable")], group.r


def _prices(
    kept: Counts, next_sizes: Counts, overspending: Overspending
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What is left of each budget [metrics], the price of each group's next block, and who fits."""
    one_more = kept + np.diag(next_sizes)
    over = overspending(np.concatenate([kept[None], one_more]))
    prices: NDArray[np.float64] = (over[1:] - over[0]).sum(axis=1)
    fits = (over[1:] <= 0).all(axis=1) & (next_sizes > 0)
    return -over[0], prices, fits


def _longest_affordable(
    order: Counts,
    pool: _Pool,
    kept: Counts,
    slack: NDArray[np.float64],
    overspending: Overspending,
) -> int:
    """How many blocks of ``order`` to give in this round: within its share of the slack, or one."""
    low, high = 1, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        over = overspending((kept + pool.num_units(order[:middle]))[None])[0]
        if (over <= -slack * (1 - _SHARE_PER_ROUND)).all():
            low = middle
        else:
            high = middle - 1
    return low
