"""Where a sweep measures: shares of the original's cost as budgets, none of them out of reach."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from fairdeploy.allocation.amounts import share_text
from fairdeploy.errors import BudgetError
from fairdeploy.records import Budget, MetricName, SweepTarget

_WHOLE = 100.0
# Per cent of the original; networks that are nearer to each other need no closer look.
_LEAST_STEP = 0.5


def spread_targets(
    metric: MetricName, smallest: float, original: float, num_points: int
) -> tuple[SweepTarget, ...]:
    """Budgets at even distances, from just below the original down to the smallest.

    They are whole per cents where those are fine enough, so that they can be typed again.

    Raises:
        BudgetError: Nothing can be removed.
    """
    lowest = _rounded_up(metric, smallest, original)
    step = (_WHOLE - lowest) / num_points
    digits = max(0, math.ceil(-math.log10(step)))
    inner = (round(lowest + step * index, digits) for index in range(1, num_points))
    percents = {lowest, *(percent for percent in inner if lowest < percent < _WHOLE)}
    return tuple(_target(metric, percent) for percent in sorted(percents, reverse=True))


def capped_targets(
    metric: MetricName, smallest: float, original: float, percents: Sequence[float]
) -> tuple[SweepTarget, ...]:
    """The percentages as budgets; those out of reach become one budget for the smallest.

    Raises:
        BudgetError: Nothing can be removed.
    """
    lowest = _rounded_up(metric, smallest, original)
    reachable = [percent for percent in percents if percent / _WHOLE * original >= smallest]
    capped = tuple(percent for percent in percents if percent not in reachable)
    targets = [_target(metric, percent) for percent in reachable if percent != lowest or not capped]
    return (*targets, _target(metric, lowest, capped)) if capped else tuple(targets)


def shares_between(shares: Sequence[float]) -> tuple[float, ...]:
    """Three percentages between each two networks that were measured, where there is room.

    Args:
        shares: Of the original's cost, falling.
    """
    percents: list[float] = []
    for high, low in itertools.pairwise(_WHOLE * share for share in shares):
        step = (high - low) / 4
        if step >= _LEAST_STEP:
            inner = (high - step * number for number in (1, 2, 3))
            percents += [round(percent, 0 if step >= 1 else 1) for percent in inner]
    return tuple(percents)


def _target(metric: MetricName, percent: float, asked: tuple[float, ...] = ()) -> SweepTarget:
    """The same budget that ``--budget`` makes of its text, so that it gives the same plan."""
    amount = f"{percent:.15g}"
    budget = Budget(metric, f"{metric}={amount}%", fraction=float(amount) / _WHOLE)
    return SweepTarget(budget, asked)


def _rounded_up(metric: MetricName, smallest: float, original: float) -> float:
    """The smallest percentage that can be reached, in the fewest digits that stay below 100."""
    if smallest >= original:
        raise BudgetError(
            f"nothing to sweep: every allowed plan keeps {share_text(smallest, original)} of the "
            f"{metric}; relax what keeps units from going, or see with 'fairdeploy inspect' what "
            "cannot be removed and why"
        )
    share = smallest / original
    for digits in itertools.count(1):
        scale = 10.0**digits
        percent = round(math.ceil(share * _WHOLE * scale) / scale, digits)
        if percent < _WHOLE and percent / _WHOLE * original >= smallest:
            return percent
    raise AssertionError
