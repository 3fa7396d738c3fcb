"""Which units of a balanced group go together: one of each block, by score.

Only the number that goes must be the same in each block, so each block is put in its own order of
removal, and the first of every block make the group's first unit, the second the second, and so on.
The rule of the tolerance then sees a group like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.records import GroupScores

Scores = NDArray[np.float64]


def paired_units(u: Scores, r: Scores) -> NDArray[np.int64]:
    """Places of the units that go together, counted block after block.

    Args:
        u: U-Scores, shape [B, N].
        r: R-Scores, the same shape; they decide between equal U-Scores.

    Returns:
        Shape [N, B]: row ``i`` holds the unit with the i-th lowest U-Score of each block. A single
        block keeps its order.
    """
    num_blocks, size = u.shape
    if num_blocks == 1:
        return np.arange(size, dtype=np.int64)[:, None]
    order = np.lexsort((r, u), axis=1)
    places: NDArray[np.int64] = (order + size * np.arange(num_blocks)[:, None]).T.astype(np.int64)
    return places


def paired_scores(u: Scores, r: Scores, places: NDArray[np.int64]) -> tuple[Scores, Scores]:
    """U (mean over blocks) and R (sum over blocks) of the units that ``places`` puts together."""
    return u.reshape(-1)[places].mean(axis=1), r.reshape(-1)[places].sum(axis=1)


def places_in_groups(
    groups: Sequence[GroupScores], removed: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Removed units counted block after block, as ``Group.units`` counts them; by group name."""
    result = {}
    for group in groups:
        rows = np.array(removed.get(group.name, ()), dtype=np.int64)
        if group.places is not None:
            rows = np.sort(group.places[rows].reshape(-1))
        result[group.name] = tuple(rows.tolist())
    return result
