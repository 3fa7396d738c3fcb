"""The depth of a network under the same rule as its widths: which residual branches go.

All branches that may go are one group of their own, with U- and R-Scores like any units, and one
ToD curve: at a shared tolerance the deepest prefix goes whose ToD is within it. Branches cost very
different amounts, so each enters the search as a group of one unit with the tolerance at which it
goes; those tolerances are what the curve says, and rise in the order of removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.tolerance import removal_order, tod_curve
from fairdeploy.graph.near_ties import settled
from fairdeploy.records import GroupScores

DEPTH_RELUCTANCE = 0.1
"""Shared tolerance below which all branches stay; from there on their own rises from 0 to 1.

At half of ResNet-56's MACs 12 blocks go with 0.1 and 9 or 11 with 0.25 (scored by the loss alone,
on 512 or 256 images): as many answers are right after the repair, with fewer layers to run.
"""


def with_depth_rule(
    groups: Sequence[GroupScores], branches: Sequence[int]
) -> tuple[GroupScores, ...]:
    """The groups, those of residual branches with the tolerance at which each goes.

    Args:
        groups: With their scores and limits.
        branches: Places of those that are branches, each of one unit.
    """
    result = list(groups)
    if branches:
        u, r = (
            settled(np.array([float(getattr(groups[place], name)[0]) for place in branches]))
            for name in ("u", "r")
        )
        for place, tolerance in zip(branches, depth_tolerances(u, r), strict=True):
            result[place] = replace(groups[place], tolerances=np.array([tolerance]))
    return tuple(result)


def depth_tolerances(
    u: NDArray[np.float64], r: NDArray[np.float64], reluctance: float = DEPTH_RELUCTANCE
) -> NDArray[np.float64]:
    """The shared tolerance from which on each branch goes, shape [N].

    The k-th in the order of removal goes where the curve first allows a prefix of k or more.
    """
    curve = tod_curve(u, r)
    reached_at = np.minimum.accumulate(curve[::-1])[::-1]
    tolerances = np.empty(len(u))
    tolerances[removal_order(u)] = reluctance + (1.0 - reluctance) * reached_at
    return tolerances
