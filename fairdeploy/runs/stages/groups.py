"""Groups with their scores and their limits: what the allocation chooses from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.depth import with_depth_rule
from fairdeploy.allocation.pairing import paired_scores, paired_units, places_in_groups
from fairdeploy.allocation.restrictions import (
    GroupLimit,
    Rule,
    group_limits,
)
from fairdeploy.allocation.search import smallest_plan
from fairdeploy.allocation.shared_knob import with_shared_knob
from fairdeploy.graph.near_ties import settled
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.inputs.calibration import SYNTHETIC_WARNING
from fairdeploy.records import (
    UNMEASURED_MULTIPLE,
    Allocation,
    AllocationRule,
    GroupScores,
    PruningMethod,
    UnitScores,
)
from fairdeploy.scoring.signals import reads_images

MIN_BLOCKS = 8
# A multiple above the usual one was measured on the target, or the user says so.
MIN_STRICT_BLOCKS = 2
# A unit of a residual stream takes a slice of every block with it, which the ranks within its group
# do not show. ResNet-56 on CIFAR-10 at 60 % of its parameters, after least squares: 82.3 % when
# streams share the tolerance, 86.0 % when they stay whole up to 0.5 (original 88.4 %).
STREAM_RELUCTANCE = 0.5


def limits_of(
    graph: UnitGraph, channel_multiple: int, rules: Sequence[Rule] = (), *, is_strict: bool = False
) -> tuple[GroupLimit, ...]:
    """How many units of each group may go, and in what steps.

    The first residual branch of a stream makes it, so it stays.
    """
    steps = [unit_step(group, channel_multiple, is_strict=is_strict) for group in graph.groups]
    limits = list(group_limits(graph.groups, rules, steps))
    for branch in graph.branches:
        if branch.is_first:
            limits[branch.group] = GroupLimit(max_removed=0, step=1)
    return tuple(limits)


def group_scores(
    graph: UnitGraph,
    scores: UnitScores | None,
    channel_multiple: int,
    rules: Sequence[Rule] = (),
    allocation: AllocationRule = "tod",
    *,
    is_strict: bool = False,
) -> tuple[GroupScores, ...]:
    """Scores group by group (all 0 for None), within the limits that the target and the user set.

    Each group keeps at least one unit, and a multiple that the target likes. Everything that
    chooses from the groups follows the allocation rule.
    """
    limits = limits_of(graph, channel_multiple, rules, is_strict=is_strict)
    if scores is None:
        scores = UnitScores(np.zeros(graph.num_units), np.zeros(graph.num_units), 0, 0)
    groups = tuple(
        _scores_of(group, scores, limit) for group, limit in zip(graph.groups, limits, strict=True)
    )
    groups = with_depth_rule(groups, [branch.group for branch in graph.branches])
    return with_shared_knob(groups, allocation)


def _scores_of(group: Group, scores: UnitScores, limit: GroupLimit) -> GroupScores:
    u, r = settled(scores.u[group.blocks]), settled(scores.r[group.blocks])
    places = paired_units(u, r)
    u, r = paired_scores(u, r, places)
    return GroupScores(
        group.name,
        settled(u),
        settled(r),
        max_removed=limit.max_removed,
        places=places if group.num_blocks > 1 else None,
        step=limit.step,
        reluctance=STREAM_RELUCTANCE if group.is_summed else 0.0,
    )


def removed_units(
    graph: UnitGraph, groups: tuple[GroupScores, ...], allocation: Allocation
) -> NDArray[np.bool_]:
    """Which units of the graph an allocation removes, shape [num_units]."""
    return graph.removed_mask(places_in_groups(groups, allocation.removed))


def smallest_plan_units(graph: UnitGraph, groups: tuple[GroupScores, ...]) -> NDArray[np.bool_]:
    """Which units go if as many go as may, shape [num_units]; scores do not matter."""
    return graph.removed_mask(places_in_groups(groups, smallest_plan(groups)))


def unit_step(group: Group, channel_multiple: int, *, is_strict: bool = False) -> int:
    """How many units go together so that channel counts stay multiples.

    A unit of several channels (an attention head) brings a multiple of its own. Groups of fewer
    than eight blocks (two, for strict multiples and those that are known to pay) get smaller
    blocks: there the choice of units matters more than alignment.
    """
    is_strict = is_strict or channel_multiple > UNMEASURED_MULTIPLE
    min_blocks = MIN_STRICT_BLOCKS if is_strict else MIN_BLOCKS
    channels = max(
        (member.positions.shape[1] for member in group.members if member.role == "produces"),
        default=1,
    )
    step = channel_multiple // math.gcd(channel_multiple, channels)
    while step > 1 and step * min_blocks > group.size:
        step //= 2
    return max(step, 1)


def group_sizes(graph: UnitGraph) -> NDArray[np.int64]:
    """Number of units of each group."""
    return np.array([group.size for group in graph.groups], dtype=np.int64)


# ---- what to warn of where another signal or rule than the default decides -----------------------


WEIGHTS_ONLY_WARNING = (
    "NO DATA GIVEN: the weights alone decide what to remove, and nothing can be said about "
    "accuracy; give --data"
)


def fitting_warning(text: str, method: PruningMethod) -> str:
    """What a warning about the images comes down to where no signal reads any."""
    is_void = text == SYNTHETIC_WARNING and not reads_images(method.signal, method.protect)
    return WEIGHTS_ONLY_WARNING if is_void else text


def method_warnings(method: PruningMethod) -> Iterator[str]:
    """What the chosen signals cannot do."""
    if method.is_self_protected and method.allocation == "tod":
        yield (
            f"'{method.signal}' removes and protects alike, so every group has the same curve and "
            "about the same share goes from each; choose another --protect, or --allocation "
            "uniform or global"
        )
