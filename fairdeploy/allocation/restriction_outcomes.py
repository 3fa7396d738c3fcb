"""What came of each restriction in a plan: where it bound, and who could not honour it and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fairdeploy.allocation.module_globs import Layers, matches, module_of, producers
from fairdeploy.allocation.multiples import smallest_kept
from fairdeploy.allocation.restrictions import GroupLimit, Rule, channels_per_unit
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.records import GroupRemark, RestrictionOutcome

_MAX_NAMES = 3


def restriction_outcomes(
    graph: UnitGraph,
    rules: Sequence[Rule],
    limits: Sequence[GroupLimit],
    num_removed: Mapping[str, int],
) -> tuple[RestrictionOutcome, ...]:
    """One outcome a rule, read off the numbers of units that a plan removes from each group."""
    kept = [group.size - num_removed.get(group.name, 0) for group in graph.groups]
    return tuple(_outcome(graph, rule, rules, limits, kept) for rule in rules)


def _outcome(
    graph: UnitGraph,
    rule: Rule,
    rules: Sequence[Rule],
    limits: Sequence[GroupLimit],
    kept: Sequence[int],
) -> RestrictionOutcome:
    indices = sorted(rule.groups)
    if rule.kind == "round_to":
        held = {i for other in rules if other.kind in ("include", "exclude") for i in other.groups}
        indices = [index for index in indices if index not in held]
        binding = [index for index in indices if kept[index] < graph.groups[index].size]
    else:
        binding = [i for i in indices if _binds(rule, graph.groups[i], limits[i], kept[i])]
    return RestrictionOutcome(
        option=rule.option,
        num_groups=len(indices),
        num_held=len(binding),
        exceptions=tuple(_exceptions(graph, rule, limits, kept, indices)),
        notes=tuple(_notes(graph, rule, limits, indices)),
    )


def _binds(rule: Rule, group: Group, limit: GroupLimit, kept: int) -> bool:
    """Whether the group is as small as this rule lets it be, and another would let it shrink."""
    allowed = rule.max_removed(group.size)
    if allowed > limit.max_removed or allowed >= group.most_removed:
        return False
    return kept == _smallest(group, limit)


def _smallest(group: Group, limit: GroupLimit) -> int:
    numbers = (np.array([n]) for n in (group.size, limit.max_removed, limit.step))
    return int(smallest_kept(*numbers)[0])


def _exceptions(
    graph: UnitGraph,
    rule: Rule,
    limits: Sequence[GroupLimit],
    kept: Sequence[int],
    indices: Sequence[int],
) -> Iterable[GroupRemark]:
    for index in indices:
        group = graph.groups[index]
        if rule.kind == "min_units" and kept[index] < rule.amount:
            yield GroupRemark(group.name, f"has only {group.size} units; all of them stay")
        if rule.kind == "round_to":
            channels = kept[index] * channels_per_unit(group)
            if channels % int(rule.amount):
                text = _why_no_multiple(group, limits[index], channels, int(rule.amount))
                yield GroupRemark(group.name, text)


def _why_no_multiple(group: Group, limit: GroupLimit, channels: int, multiple: int) -> str:
    """Why a whole group stays at ``channels``."""
    stays = f"stays whole at {channels} channels"
    if limit.step > group.size:
        per_unit = channels_per_unit(group)
        units = f" ({group.size} units of {per_unit})" if per_unit > 1 else ""
        return f"{stays}{units}: no smaller count is a multiple of {multiple}"
    if _smallest(group, limit) == group.size:
        return f"{stays}: its cap leaves no multiple of {multiple}"
    return f"{stays}: the budget did not ask for fewer"


def _notes(
    graph: UnitGraph, rule: Rule, limits: Sequence[GroupLimit], indices: Sequence[int]
) -> Iterable[GroupRemark]:
    layers = Layers(graph) if rule.kind in ("include", "exclude") else None
    for index in indices:
        group, limit = graph.groups[index], limits[index]
        text = ""
        if layers is not None:
            text = _straddling(rule, layers.of(group), producers(group))
        elif rule.kind == "max_prune":
            text = _cap_that_keeps_whole(rule, group, limit)
        elif rule.kind == "round_to" and 1 < limit.step <= group.size:
            per_unit = channels_per_unit(group)
            text = f"units of {per_unit} channels go by {limit.step}" if per_unit > 1 else ""
        if text:
            yield GroupRemark(group.name, text)


def _straddling(rule: Rule, layers: Sequence[str], made_by: Sequence[str]) -> str:
    """For a group that the globs match in part: why it stays."""
    covered = [name for name in layers if any(matches(glob, name) for glob in rule.globs)]
    others = [name for name in layers if name not in covered]
    if rule.kind == "include":
        return f"stays whole: {_names(others)} not included" if covered and others else ""
    touched = [name for name in made_by if any(matches(glob, name) for glob in rule.globs)]
    if not others or not touched:
        return ""
    return f"stays whole with {_names(others, verb='')}, which must keep the same width"


def _cap_that_keeps_whole(rule: Rule, group: Group, limit: GroupLimit) -> str:
    allowed = rule.max_removed(group.size)
    if rule.amount == 0 or _smallest(group, limit) < group.size or allowed > limit.max_removed:
        return ""
    if allowed == 0:
        return f"stays whole: {rule.amount:g} of {group.size} units is less than one"
    return f"stays whole: at most {allowed} of {group.size} units may go, but {limit.step} at once"


def _names(tensors: Sequence[str], verb: str | None = None) -> str:
    """``'a', 'b' and 2 more are``."""
    modules = list(dict.fromkeys(module_of(name) for name in tensors))
    shown = ", ".join(f"'{name}'" for name in modules[:_MAX_NAMES])
    more = f" and {len(modules) - _MAX_NAMES} more" if len(modules) > _MAX_NAMES else ""
    if verb is None:
        verb = " is" if len(modules) == 1 else " are"
    return f"{shown}{more}{verb}"
