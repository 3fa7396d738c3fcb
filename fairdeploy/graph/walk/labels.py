"""Union-find over index labels, vectorised: one call merges whole label vectors.

Label 0 (``FIXED``) is an index that can never go: inputs, batch, space. Merging a label with it
freezes the label. A label frozen for a reason keeps its own identity, so that later one can tell
which indices would have been units and what tied them down.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FIXED = 0
NO_REASON = np.iinfo(np.int64).max

Labels = NDArray[np.int64]


class LabelStore:
    """Labels with their roots and, if frozen, the earliest reason's number."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._reason = np.full(1024, NO_REASON, dtype=np.int64)
        self._reason[FIXED] = 0
        self._size = 1

    def __len__(self) -> int:
        return self._size

    def fresh(self, count: int) -> Labels:
        """Return ``count`` new labels, each a unit of its own."""
        end = self._size + count
        while end > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
            self._reason = np.concatenate([self._reason, np.full_like(self._reason, NO_REASON)])
        labels = np.arange(self._size, end, dtype=np.int64)
        self._parent[labels] = labels
        self._size = end
        return labels

    def find(self, labels: Labels) -> Labels:
        """Return the root of each label, compressing the paths."""
        parent = self._parent
        roots = parent[labels]
        while True:
            above = parent[roots]
            if np.array_equal(above, roots):
                parent[labels] = roots
                return roots
            roots = above

    def merge(self, first: Labels, second: Labels, reason: int) -> None:
        """Make the labels of each pair live or die together.

        ``reason`` is recorded for those that meet a fixed index and so cannot go.
        """
        fixed = (first == FIXED) | (second == FIXED)
        if fixed.any():
            self.freeze(np.concatenate([first[fixed], second[fixed]]), reason)
            first, second = first[~fixed], second[~fixed]
        low, high = self.find(first), self.find(second)
        touched = [low, high]
        while True:
            differs = low != high
            if not differs.any():
                break
            low, high = low[differs], high[differs]
            low, high = np.minimum(low, high), np.maximum(low, high)
            np.minimum.at(self._parent, high, low)
            low, high = self.find(low), self.find(high)
        for labels in touched:
            np.minimum.at(self._reason, self.find(labels), self._reason[labels])

    def freeze(self, labels: Labels, reason: int) -> int:
        """Freeze the labels; return how many units that were free before are frozen now."""
        roots = np.unique(self.find(labels[labels != FIXED]))
        newly = int((self._reason[roots] == NO_REASON).sum())
        self._reason[roots] = np.minimum(self._reason[roots], reason)
        return newly

    def is_live(self, labels: Labels) -> NDArray[np.bool_]:
        """Whether each label can still go."""
        live: NDArray[np.bool_] = self._reason[self.find(labels)] == NO_REASON
        return live

    def reason_of(self, labels: Labels) -> Labels:
        """The number of the reason that froze each label, or ``NO_REASON``."""
        return self._reason[self.find(labels)]

    def num_live_units(self, labels: Labels) -> int:
        """How many different removable units the labels stand for."""
        roots = self.find(labels)
        return len(np.unique(roots[self._reason[roots] == NO_REASON]))
