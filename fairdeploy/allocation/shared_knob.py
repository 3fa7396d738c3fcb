"""Rules that share out by one knob other than the tolerance of difference: the field's baselines.

Each says at which value of the knob every unit goes, in the order of the removal signal; the search
then turns the knob as it turns the tolerance, within the same limits, steps and budgets, and gives
units back the way the knob took them. Residual streams get no tolerance of their own.

- ``uniform``: the knob is the share that goes from every group.
- ``global``: the knob is a threshold on the removal signal, divided by the group's mean as
  DepGraph does (Fang et al. 2023, arXiv 2301.12900); all units below it go, wherever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.tolerance import removal_order
from fairdeploy.graph.near_ties import settled
from fairdeploy.records import AllocationRule, GroupScores

Scores = NDArray[np.float64]


def with_shared_knob(
    groups: Sequence[GroupScores], rule: AllocationRule
) -> tuple[GroupScores, ...]:
    """The groups with what ``rule`` says of their units; as they are for ``tod``.

    Args:
        groups: With their scores and limits.
        rule: Which rule.
    """
    if rule == "tod":
        return tuple(groups)
    if rule == "uniform":
        knobs = [_shares(len(group.u)) for group in groups]
    else:
        knobs = _thresholds(groups)
    return tuple(
        replace(group, knob=knob, reluctance=0.0) for group, knob in zip(groups, knobs, strict=True)
    )


def knob_of_units(group: GroupScores) -> Scores:
    """The value of the knob at which each unit goes, shape [N]."""
    assert group.knob is not None
    values = np.empty_like(group.knob)
    values[removal_order(group.u)] = group.knob
    return values


def _shares(num_units: int) -> Scores:
    return np.arange(1, num_units + 1) / num_units


def _normalised(group: GroupScores) -> Scores:
    mean = float(group.u.mean())
    return group.u / mean if mean > 0 else np.zeros_like(group.u)


def _thresholds(groups: Sequence[GroupScores]) -> list[Scores]:
    pooled = settled(np.concatenate([_normalised(group) for group in groups]))
    ends = np.cumsum([len(group.u) for group in groups])
    return [np.sort(part) for part in np.split(pooled, ends[:-1])]
