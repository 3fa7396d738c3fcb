"""Tolerance of Difference (ToD), the allocation rule of FAIR-Pruner (arXiv 2508.02291).

``P_k`` are the k units with the lowest U-Score (proposed for removal), ``T_k`` the k units with the
highest R-Score (protected), and ``ToD(k) = |P_k & T_k| / k``. Given the shared tolerance alpha, a
group is pruned to the deepest k with ``ToD(k) <= alpha``.

Unit i is in both sets from ``k_i = max(rank_U(i), N + 1 - rank_R(i))`` on, so one sort of each
score and one cumulative count give the whole curve in O(N log N).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def removal_order(u: Scores) -> NDArray[np.int64]:
    """Units from the lowest U-Score up; equal scores in the order of their numbers."""
    return np.argsort(u, kind="stable").astype(np.int64)


def protection_order(r: Scores) -> NDArray[np.int64]:
    """Units from the highest R-Score down; equal scores in the order of their numbers."""
    return np.argsort(-r, kind="stable").astype(np.int64)


def tod_curve(u: Scores, r: Scores) -> Scores:
    """``ToD(k)`` for k = 1 to N, shape [N]."""
    num_units = len(u)
    places = np.arange(1, num_units + 1)
    enters_removal = np.empty(num_units, dtype=np.int64)
    enters_removal[removal_order(u)] = places
    enters_protection = np.empty(num_units, dtype=np.int64)
    enters_protection[protection_order(r)] = places
    both = np.bincount(np.maximum(enters_removal, enters_protection), minlength=num_units + 1)
    curve: Scores = np.cumsum(both[1:]) / places
    return curve


def deepest_prefix(curve: Scores, alpha: float, max_removed: int) -> int:
    """The largest ``k <= max_removed`` with ``ToD(k) <= alpha``, or 0.

    The curve may rise and fall, but this k never falls when alpha rises.
    """
    allowed = np.flatnonzero(curve[:max_removed] <= alpha)
    return int(allowed[-1]) + 1 if len(allowed) else 0
