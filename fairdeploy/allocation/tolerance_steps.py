"""Depth of the removal prefix as a step function of the tolerance.

A group's depth changes only at finitely many tolerances, the values of its own ToD curve; knowing
them lets the search bisect exactly instead of on the real line. The same holds for rules with
another knob (see ``shared_knob``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.tolerance import tod_curve
from fairdeploy.records import GroupScores


@dataclass(frozen=True, slots=True)
class DepthSteps:
    """The tolerances at which one group's depth jumps, and to what; both strictly ascending."""

    tolerances: NDArray[np.float64]
    depths: NDArray[np.int64]

    def depth_at(self, tolerance: float) -> int:
        """What ``deepest_prefix`` gives; 0 below the first step."""
        step = int(np.searchsorted(self.tolerances, tolerance, side="right"))
        return int(self.depths[step - 1]) if step else 0


def depth_steps(group: GroupScores) -> DepthSteps:
    """Steps of one group, up to its ``max_removed``, by the knob that all groups share.

    The knob is the tolerance, unless the group says otherwise.
    """
    if group.knob is not None:
        return _knob_steps(group.knob[: group.max_removed])
    if group.tolerances is not None:
        return _knob_steps(group.tolerances[: group.max_removed])
    head = tod_curve(group.u, group.r)[: group.max_removed]
    # Depth k is ever chosen only if every deeper prefix needs a higher tolerance.
    lowest_deeper = np.append(np.minimum.accumulate(head[::-1])[::-1][1:], np.inf)
    depths = np.flatnonzero(head < lowest_deeper[: len(head)]) + 1
    own_tolerances = head[depths - 1]
    shared = group.reluctance + (1.0 - group.reluctance) * own_tolerances
    return DepthSteps(shared, depths.astype(np.int64))


def _knob_steps(knob: NDArray[np.float64]) -> DepthSteps:
    """Of units that go at the same value, all go."""
    values, counts = np.unique(knob, return_counts=True)
    return DepthSteps(values, np.cumsum(counts).astype(np.int64))


def critical_tolerances(steps: Sequence[DepthSteps]) -> NDArray[np.float64]:
    """All tolerances at which any group's depth jumps, ascending, and 0."""
    return np.unique(np.concatenate([np.zeros(1), *(group.tolerances for group in steps)]))


def depths_at(steps: Sequence[DepthSteps], tolerance: float) -> NDArray[np.int64]:
    """Depth of every group at one shared tolerance, shape [G]."""
    return np.array([group.depth_at(tolerance) for group in steps], dtype=np.int64)
