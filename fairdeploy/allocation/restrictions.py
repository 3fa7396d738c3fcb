"""From what the user typed to limits of each group: how many units may go, and in what steps.

Every option holds for itself; where several apply to a group, the strictest counts. ``exclude``
wins over ``include``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.module_globs import Layers, check_globs, matches, producers
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.records import Restrictions

Kind = Literal["include", "exclude", "max_prune", "min_units", "round_to"]
NO_RESTRICTIONS = Restrictions()
EVERYTHING = "*"
# Keeps 0.7 of 10 units from being 6.999.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """One restriction, and the numbers of the groups that it applies to."""

    kind: Kind
    option: str
    """As typed."""
    groups: frozenset[int]
    amount: float = 0.0
    """Share of ``max_prune``, count of ``min_units`` and ``round_to``."""
    globs: tuple[str, ...] = ()

    def max_removed(self, size: int) -> int:
        """How many units this rule lets a group of ``size`` lose."""
        if self.kind in ("include", "exclude"):
            return 0
        if self.kind == "max_prune":
            return min(math.floor(self.amount * size + _ROUNDING), size - 1)
        return max(size - int(self.amount), 0) if self.kind == "min_units" else size - 1


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """How many units of a group may go, and the multiple of units that stays."""

    max_removed: int
    step: int


def rules_of(graph: UnitGraph, restrictions: Restrictions) -> tuple[Rule, ...]:
    """The restrictions as rules for the groups of ``graph``.

    Raises:
        UsageError: A glob matches nothing.
    """
    rules = [*_include_rules(graph, restrictions.include)]
    # a branch has no width: it goes or stays
    branches = {branch.group for branch in graph.branches}
    for glob in restrictions.exclude:
        option = f"--exclude {shlex.quote(glob)}"
        rules.append(Rule("exclude", option, _touched(graph, "--exclude", glob), globs=(glob,)))
    for glob, share in restrictions.max_prune:
        groups = _touched(graph, "--max-prune", glob) - branches
        rules.append(Rule("max_prune", _typed("--max-prune", glob, f"{share:g}"), groups, share))
    for glob, count in restrictions.min_units:
        groups = _touched(graph, "--min-units", glob) - branches
        rules.append(Rule("min_units", _typed("--min-units", glob, str(count)), groups, count))
    if restrictions.round_to is not None:
        every = frozenset(range(len(graph.groups))) - branches
        option = f"--round-to {restrictions.round_to}"
        rules.append(Rule("round_to", option, every, restrictions.round_to))
    return tuple(rules)


def rules_without_an_option(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    """By option, with all its values as typed: the rules that are left without it.

    Where several options are given, the last entry is without all of them.
    """
    typed: dict[Kind, list[str]] = {}
    for rule in rules:
        typed.setdefault(rule.kind, []).append(rule.option)
    result = {
        " ".join(options): tuple(rule for rule in rules if rule.kind != kind)
        for kind, options in typed.items()
    }
    return result | ({" and ".join(result): ()} if len(result) > 1 else {})


def group_limits(
    groups: Sequence[Group], rules: Sequence[Rule], default_steps: Sequence[int]
) -> tuple[GroupLimit, ...]:
    """Limits of every group.

    Args:
        groups: All groups of the network.
        rules: From ``rules_of`` for the same groups.
        default_steps: The target's step of each group; ``round_to`` replaces it.
    """
    limits = []
    for index, (group, step) in enumerate(zip(groups, default_steps, strict=True)):
        most = group.most_removed
        for rule in rules:
            if index in rule.groups:
                most = min(most, rule.max_removed(group.size))
                if rule.kind == "round_to":
                    step = exact_step(group, int(rule.amount))  # noqa: PLW2901
        limits.append(GroupLimit(most, step))
    return tuple(limits)


def held_groups(groups: Sequence[Group], rules: Sequence[Rule]) -> dict[int, str]:
    """By index of each group that the rules keep whole: the options that do."""
    held: dict[int, list[str]] = {}
    for rule in rules:
        for index in sorted(rule.groups):
            if rule.max_removed(groups[index].size) == 0:
                held.setdefault(index, []).append(rule.option)
    return {index: " and ".join(options) for index, options in held.items()}


def exact_step(group: Group, multiple: int) -> int:
    """How many units go together so that channel counts are multiples, however small the group."""
    return multiple // math.gcd(multiple, channels_per_unit(group))


def channels_per_unit(group: Group) -> int:
    """Channels that go with one unit in the widest layer that makes it: 64 for a head of 64, say.

    From a balanced group one unit of every block goes at once.
    """
    positions: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
    for member in group.members:
        if member.role == "produces":
            place = (member.tensor, member.dim)
            positions.setdefault(place, []).append(member.positions.reshape(-1))
    widths = (len(np.unique(np.concatenate(parts))) for parts in positions.values())
    return max(1, max(widths, default=1) // group.size)


def _include_rules(graph: UnitGraph, globs: tuple[str, ...]) -> tuple[Rule, ...]:
    """One rule for all include globs together: it holds the groups that they do not cover."""
    if not globs:
        return ()
    check_globs(graph, "--include", globs)
    layers = Layers(graph)
    held = frozenset(
        index
        for index, group in enumerate(graph.groups)
        if not all(any(matches(glob, name) for glob in globs) for name in layers.of(group))
    )
    option = " ".join(f"--include {shlex.quote(glob)}" for glob in globs)
    return (Rule("include", option, held, globs=globs),)


def _touched(graph: UnitGraph, option: str, glob: str) -> frozenset[int]:
    """Groups that the glob touches."""
    if glob == EVERYTHING:
        return frozenset(range(len(graph.groups)))
    check_globs(graph, option, (glob,))
    return frozenset(
        index
        for index, group in enumerate(graph.groups)
        if any(matches(glob, name) for name in producers(group))
    )


def _typed(option: str, glob: str, amount: str) -> str:
    return f"{option} {amount if glob == EVERYTHING else shlex.quote(f'{glob}={amount}')}"
