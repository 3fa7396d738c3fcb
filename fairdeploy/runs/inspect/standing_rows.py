"""What stays and why, one row a reason: equal reasons of many layers are one row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fairdeploy.allocation.module_globs import producers
from fairdeploy.allocation.restrictions import Rule
from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.unit_graph import Freeze, UnitGraph
from fairdeploy.graph.walk.freezes import unused_modules, unused_tensors

NEVER_USED = "never used"
"""In place of an operation: no operation reads these parameters."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Why some tensors keep the number of their outputs."""

    op: str
    """The operation that holds them, or ``NEVER_USED``; empty for an option."""
    reason: str
    modules: tuple[str, ...]
    """Where the operation is called."""
    source_lines: tuple[tuple[str, int], ...]
    """Lines that issued it and how often, the most frequent first."""
    tensors: frozenset[str]
    num_params: int

    def document(self) -> dict[str, Any]:
        """The row of ``--json``."""
        return {
            "op": self.op,
            "reason": self.reason,
            "count": sum(count for _, count in self.source_lines) or len(self.modules),
            "params": self.num_params,
            "modules": list(self.modules),
            "source_lines": [{"line": line, "count": n} for line, n in self.source_lines],
            "tensors": sorted(self.tensors),
        }


def standing_rows(graph: UnitGraph, rules: Sequence[Rule]) -> tuple[Standing, ...]:
    """Reasons of the network, then the options that keep groups whole; most parameters first."""
    freezes: dict[tuple[str, str], list[Freeze]] = defaultdict(list)
    for freeze in graph.freezes:
        freezes[freeze.op, freeze.reason].append(freeze)
    tensors: dict[tuple[str, str], set[str]] = defaultdict(set)
    for group in graph.frozen_groups:
        tensors[group.op, group.reason].update(group.tensors)
    rows = [
        Standing(
            op=op,
            reason=reason,
            modules=tuple(dict.fromkeys(freeze.module_path for freeze in freezes[op, reason])),
            source_lines=_counted(freezes[op, reason]),
            tensors=frozenset(held),
            num_params=_num_params(graph, held),
        )
        for (op, reason), held in tensors.items()
    ]
    if unused := unused_tensors(graph.module):
        rows.append(
            Standing(
                op=NEVER_USED,
                reason="the network never uses it",
                modules=unused_modules(graph.module),
                source_lines=(),
                tensors=unused,
                num_params=_num_params(graph, unused),
            )
        )
    rows.sort(key=lambda row: -row.num_params)
    return (
        *rows,
        *(_held_by(graph, rule) for rule in rules if rule.kind in ("include", "exclude")),
    )


def unknown_op_rows(graph: UnitGraph) -> list[dict[str, Any]]:
    """Operations without a rule, how often they are called, and the lines that issue them."""
    by_op: dict[str, list[Freeze]] = defaultdict(list)
    for freeze in graph.freezes:
        if freeze.is_unknown_op:
            by_op[freeze.op].append(freeze)
    return [
        {
            "op": op,
            "count": len(freezes),
            "modules": list(dict.fromkeys(freeze.module_path for freeze in freezes)),
            "source_lines": [{"line": line, "count": n} for line, n in _counted(freezes)],
        }
        for op, freezes in by_op.items()
    ]


def _held_by(graph: UnitGraph, rule: Rule) -> Standing:
    held = {name for index in rule.groups for name in producers(graph.groups[index])}
    return Standing(
        op="",
        reason=rule.option if rule.kind == "exclude" else f"outside {rule.option}",
        modules=tuple(graph.groups[index].name for index in sorted(rule.groups)),
        source_lines=(),
        tensors=frozenset(held),
        num_params=_num_params(graph, held),
    )


def _counted(freezes: Sequence[Freeze]) -> tuple[tuple[str, int], ...]:
    lines = Counter(freeze.source_line for freeze in freezes if freeze.source_line)
    return tuple(lines.most_common())


def _num_params(graph: UnitGraph, names: Collection[str]) -> int:
    found = (fetch_tensor(graph.module, name) for name in names)
    return sum(tensor.numel() for tensor in found if tensor is not None)
