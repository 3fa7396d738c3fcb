"""Which points of a sweep are worth having, and where its knee is.

The rule for the knee, after the distance from the chord (Satopaa et al. 2011, "Kneedle"): scale
cost and quality to 0 to 1 over all points, draw the chord from the cheapest point to the dearest
(the original), and take the point of the frontier that lies highest above it. The frontier are the
points that no other beats. Quality is accuracy; where that was not measured, the share of all
R-Scores that stays. Two cases have no bend to be found:

- The cheapest point is as good as the best one as far as the test images show, and they do show it:
  the paired interval of the two reaches no loss and goes no lower than a loss of 2 points. Then the
  curve is flat, and the cheapest point is the knee. A wider interval says that the images are too
  few, not that the curve is flat.
- No point lies above the chord, or there are fewer than three points: there is no knee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fairdeploy.records import Quality, TradeOff

MIN_POINTS = 3
MAX_UNSEEN_LOSS = 0.02
"""Of quality: what a flat curve may hide at most."""
_CHORD = "the straight line between the cheapest point and the original"
_TOO_FEW = "; the test images are too few to tell even the cheapest point from the best one"
# Of the unit square; below this, rounding and not the curve would choose.
_LEAST_HEIGHT = 1e-6


def find_trade_off(
    costs: Sequence[float],
    qualities: Sequence[Quality],
    kind: Literal["accuracy", "r_mass_kept"] = "accuracy",
) -> TradeOff:
    """Mark what no other point beats, and the knee; of equally good knees the cheapest.

    Args:
        costs: One a point, in any order.
        qualities: In the same order.
        kind: What the qualities are.
    """
    knee, reason = _find_knee(costs, qualities)
    values = [quality.value for quality in qualities]
    return TradeOff(kind, non_dominated(costs, values), knee, reason)


def non_dominated(costs: Sequence[float], values: Sequence[float]) -> tuple[bool, ...]:
    """By point: no other costs as little and is as good, and is better in one of the two."""
    pairs = list(zip(costs, values, strict=True))
    return tuple(
        not any(
            other_cost <= cost and other_value >= value and (other_cost, other_value) != pair
            for other_cost, other_value in pairs
        )
        for pair in pairs
        for cost, value in [pair]
    )


def _find_knee(costs: Sequence[float], qualities: Sequence[Quality]) -> tuple[int | None, str]:
    if len(costs) < MIN_POINTS:
        return None, f"a knee needs {MIN_POINTS} points, there are {len(costs)}"
    values = [quality.value for quality in qualities]
    cheapest = min(range(len(costs)), key=lambda index: (costs[index], -values[index]))
    dearest = max(range(len(costs)), key=lambda index: (costs[index], values[index]))
    is_told_apart = qualities[cheapest].high < max(values)
    is_flat = qualities[cheapest].low >= max(values) - MAX_UNSEEN_LOSS
    if is_flat and not is_told_apart:
        return cheapest, "even the cheapest point cannot be told from the best one"
    if costs[dearest] == costs[cheapest]:
        return None, "all points cost the same"
    doubt = "" if is_told_apart else _TOO_FEW
    heights = _heights(costs, values, cheapest, dearest)
    front = (index for index, is_free in enumerate(non_dominated(costs, values)) if is_free)
    best = min(front, key=lambda index: (-round(heights[index], 9), costs[index]))
    if heights[best] < _LEAST_HEIGHT:
        return None, f"no point lies above {_CHORD}{doubt}"
    return best, f"farthest above {_CHORD}{doubt}"


def _heights(
    costs: Sequence[float], values: Sequence[float], cheapest: int, dearest: int
) -> list[float]:
    """How far each point is above the chord, in the unit square; 0 at both ends."""
    range_of_costs = costs[dearest] - costs[cheapest]
    range_of_values = (max(values) - min(values)) or 1.0
    heights = []
    for cost, value in zip(costs, values, strict=True):
        along = (cost - costs[cheapest]) / range_of_costs
        chord = values[cheapest] + along * (values[dearest] - values[cheapest])
        heights.append((value - chord) / range_of_values)
    return heights
