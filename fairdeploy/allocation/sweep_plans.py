"""The plans of a sweep, all from one set of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fairdeploy.allocation.limits import CostFunction
from fairdeploy.allocation.search import search
from fairdeploy.records import Allocation, GroupScores, PlannedPoint, SweepTarget


def plan_points(
    groups: Sequence[GroupScores], cost_of: CostFunction, targets: Sequence[SweepTarget]
) -> tuple[PlannedPoint, ...]:
    """One point for each different plan, falling in cost.

    Args:
        groups: Scores of each group, in the order of ``cost_of``'s columns.
        cost_of: Costs of kept counts.
        targets: All of one metric, within reach, falling.
    """
    points: dict[tuple[tuple[int, ...], ...], PlannedPoint] = {}
    for target in targets:
        allocation = search(groups, cost_of, [target.budget])
        key = tuple(allocation.removed.values())
        first = points.get(key)
        if first is None:
            points[key] = _planned(groups, target, allocation)
        else:
            points[key] = replace(first, also_for=(*first.also_for, target.budget.text))
    metric = targets[0].budget.metric
    return tuple(sorted(points.values(), key=lambda point: -point.allocation.costs[metric]))


def target_notes(points: Sequence[PlannedPoint], targets: Sequence[SweepTarget]) -> Iterator[str]:
    """What came out otherwise than asked."""
    for target in targets:
        if target.asked_percents:
            asked = ", ".join(f"{percent:g}%" for percent in target.asked_percents)
            yield (
                f"{asked} of the {target.budget.metric} is out of reach; measured instead at the "
                f"smallest allowed plan, {target.budget.text}"
            )
    for point in points:
        if point.also_for:
            texts = ", ".join((point.budget.text, *point.also_for))
            yield f"{texts} give the same plan, measured once"


def _planned(
    groups: Sequence[GroupScores], target: SweepTarget, allocation: Allocation
) -> PlannedPoint:
    lost = sum(float(group.r[list(allocation.removed[group.name])].sum()) for group in groups)
    total = sum(float(group.r.sum()) for group in groups)
    return PlannedPoint(
        name=target.budget.text.replace("=", "-").removesuffix("%"),
        budget=target.budget,
        also_for=(),
        allocation=allocation,
        r_mass_share=lost / total if total else 0.0,
        num_removed=sum(
            len(allocation.removed[group.name])
            * (1 if group.places is None else group.places.shape[1])
            for group in groups
        ),
    )
