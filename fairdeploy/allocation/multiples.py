"""Kept counts that are feasible: within a group's cap, and a multiple of its step or everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def smallest_kept(sizes: Counts, max_removed: Counts, steps: Counts) -> Counts:
    """The fewest units that each group may keep, all of shape [G]."""
    return _next_above(sizes - max_removed, sizes, steps)


def nearest_kept(kept: Counts, sizes: Counts, max_removed: Counts, steps: Counts) -> Counts:
    """The feasible count nearest to each group's kept count; the larger of two equally near.

    Never fewer than the group's cap allows. Falls with ``kept``, so that a cost
    does so too. All arrays are of shape [G].
    """
    below, above = kept // steps * steps, _next_above(kept, sizes, steps)
    is_allowed = below >= smallest_kept(sizes, max_removed, steps)
    return np.where(is_allowed & (kept - below < above - kept), below, above)


def _next_above(kept: Counts, sizes: Counts, steps: Counts) -> Counts:
    """The next multiple that is not below, or everything."""
    result: Counts = np.minimum(-(-kept // steps) * steps, sizes)
    return result
