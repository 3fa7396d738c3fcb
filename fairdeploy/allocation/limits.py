"""Budgets as absolute limits on the costs of candidate networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.records import Budget

Counts = NDArray[np.int64]
CostFunction = Callable[[Counts], Mapping[str, NDArray[np.float64]]]
"""From kept counts [B, G] to the cost of each of the B candidates [B], by metric.

A cost must not rise when a group keeps fewer units.
"""


class Limits:
    """Says by how much candidates overspend, and counts how many it was asked about."""

    def __init__(self, cost_of: CostFunction, allowed: Mapping[str, float]) -> None:
        """Hold each metric of ``allowed`` to that value."""
        self._cost_of = cost_of
        self._allowed = allowed
        self.num_evaluations = 0

    @classmethod
    def of(cls, budgets: Sequence[Budget], cost_of: CostFunction, sizes: Counts) -> Limits:
        """Limits for a network whose groups have ``sizes`` units, shape [G]."""
        original = cost_of(sizes[None])
        return cls(cost_of, {b.metric: b.allowed(float(original[b.metric][0])) for b in budgets})

    def overspending(self, kept: Counts) -> NDArray[np.float64]:
        """Cost above the limit, as a share of the limit; above 0 breaks a budget.

        Args:
            kept: Candidates, shape [B, G].

        Returns:
            Shape [B, metrics].
        """
        self.num_evaluations += len(kept)
        costs = self._cost_of(kept)
        columns = [(costs[metric] - limit) / limit for metric, limit in self._allowed.items()]
        return np.stack(columns, axis=1)

    def are_met(self, kept: Counts) -> bool:
        """Whether one candidate, shape [G], meets every budget."""
        return bool((self.overspending(kept[None]) <= 0).all())

    def first_met(self, kept_at: Callable[[int], Counts], num_positions: int) -> int:
        """The first position whose candidate meets the budgets, by bisection.

        Candidates must not cost more at a later position; the last is taken to meet the budgets.
        """
        low, high = 0, num_positions - 1
        while low < high:
            middle = (low + high) // 2
            if self.are_met(kept_at(middle)):
                high = middle
            else:
                low = middle + 1
        return high
