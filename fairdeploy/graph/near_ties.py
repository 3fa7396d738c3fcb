"""When two scores are equal: where only rounding could tell them apart.

Kernels differ between processors, numbers of threads and versions in the order in which they add,
so that the same score comes out with other last digits. Whatever ranks scores makes near ties equal
first and breaks them by position, so that a plan does not hang on those digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
"""Relative to the larger of two neighbours, or to the median: float32 sums of a few thousand terms
differ by less, and scores that mean something differ by more."""


def settled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values, those that rounding alone could tell apart made equal; any shape.

    In ascending order, a value that is as near to the one before it as that becomes equal to it, so
    that a run of near ties is equal throughout, wherever it lies. The order of all others stays.
    Infinite values stay as they are.
    """
    flat = values.reshape(-1)
    order = np.argsort(flat, kind="stable")
    ascending = flat[order]
    finite = np.isfinite(ascending)
    if np.count_nonzero(finite) < 2:
        return values.copy()
    sizes = np.abs(np.where(finite, ascending, 0.0))
    near = ROUNDING * np.maximum(np.maximum(sizes[1:], sizes[:-1]), np.median(sizes[finite]))
    is_tie = np.zeros(len(flat), dtype=np.bool_)
    both = finite[1:] & finite[:-1]
    gaps = np.subtract(ascending[1:], ascending[:-1], out=np.ones_like(near), where=both)
    is_tie[1:] = both & (gaps <= near)
    first_of_run = np.maximum.accumulate(np.where(is_tie, 0, np.arange(len(flat))))
    result = np.empty_like(flat)
    result[order] = ascending[first_of_run]
    return result.reshape(values.shape)
