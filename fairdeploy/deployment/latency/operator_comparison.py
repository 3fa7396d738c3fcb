"""Original and shrunk network operator by operator, and module by module.

Both files come from graphs whose nodes have the same names, so operators are joined on the node:
the runtime may fuse them otherwise in either. What the runtime adds around a node (reordering
memory, casts) is a row of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fairdeploy.deployment.latency.obstacles import Conditions, cause_of, obstacles_of
from fairdeploy.graph.layer_facts import LayerFacts
from fairdeploy.records import ModuleTime, OperatorComparison, OperatorRow, OperatorTime

REFORMATTING = "reformatting"

_REORDERS = ("ReorderInput", "ReorderOutput", "Reorder", "MemcpyToHost", "MemcpyFromHost")
_LAYOUT_OPS = ("Transpose", "Cast")
_LAYOUT_WORDS = ("permute", "transpose", "t", "to", "clone", "contiguous", "unbind", "movedim")
"""Torch operators that move or cast data themselves; behind others the runtime does it."""


@dataclass(slots=True)
class _Sum:
    """Time and number of the operators that one network runs for a node."""

    ms: float = 0.0
    count: int = 0


@dataclass(slots=True)
class _Pair:
    original: _Sum = field(default_factory=_Sum)
    shrunk: _Sum = field(default_factory=_Sum)


_Key = tuple[str, bool]
"""Node, and whether the runtime reformats for it."""


def compare_operators(
    original: Sequence[OperatorTime],
    shrunk: Sequence[OperatorTime],
    facts: Mapping[str, LayerFacts],
    conditions: Conditions,
    *,
    num_runs: int,
) -> OperatorComparison:
    """Join operator times of both networks, and say what keeps the shrunk one from being faster.

    Args:
        original: From ``OperatorProfiler.operator_times``.
        shrunk: The same of the shrunk network.
        facts: Of every node, in graph order.
        conditions: What the target likes, and what the user keeps.
        num_runs: Runs behind each median.
    """
    pairs: dict[_Key, _Pair] = defaultdict(_Pair)
    for times, is_shrunk in ((original, False), (shrunk, True)):
        for time in times:
            pair = pairs[_key(time, facts)]
            total = pair.shrunk if is_shrunk else pair.original
            total.ms += time.median_ms
            total.count += 1
    promised = promised_speedup(facts.values())
    rows = tuple(
        _row(key, pairs[key], facts.get(key[0]), promised, conditions)
        for key in _in_order(pairs, facts)
    )
    shrunk_ms = sum(row.shrunk_ms for row in rows)
    return OperatorComparison(
        operators=rows,
        modules=module_times(rows),
        obstacles=obstacles_of(rows, shrunk_ms),
        promised_speedup=promised,
        original_ms=sum(row.original_ms for row in rows),
        shrunk_ms=shrunk_ms,
        num_runs=num_runs,
    )


def promised_speedup(facts: Iterable[LayerFacts]) -> float:
    """MACs of the original over those of the shrunk network; 1 where there are none."""
    before, after = (sum(part) for part in zip(*(fact.macs for fact in facts), strict=True))
    return before / after if after else 1.0


def module_times(rows: Iterable[OperatorRow]) -> tuple[ModuleTime, ...]:
    """Sums over each module and all inside it, in the order of their first operator."""
    sums: dict[str, tuple[float, float]] = {}
    for row in rows:
        for module in _modules_around(row.module):
            before, after = sums.get(module, (0.0, 0.0))
            sums[module] = (before + row.original_ms, after + row.shrunk_ms)
    return tuple(ModuleTime(module, *both) for module, both in sums.items())


def _modules_around(module: str) -> list[str]:
    """The module and all around it, outermost first, without the whole network."""
    parts = module.split(".") if module else []
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _key(time: OperatorTime, facts: Mapping[str, LayerFacts]) -> _Key:
    known = facts.get(time.node)
    node = time.node if known else ""
    is_layout = time.op_type in _LAYOUT_OPS and not (known and known.op in _LAYOUT_WORDS)
    return node, time.op_type in _REORDERS or is_layout


def _in_order(pairs: Mapping[_Key, _Pair], facts: Mapping[str, LayerFacts]) -> list[_Key]:
    places = {node: place for place, node in enumerate(facts)}
    return sorted(pairs, key=lambda key: (places.get(key[0], len(places)), key[1]))


def _row(
    key: _Key, pair: _Pair, facts: LayerFacts | None, promised: float, conditions: Conditions
) -> OperatorRow:
    node, is_reformatting = key
    row = OperatorRow(
        node=node,
        module=facts.module if facts else "",
        op=REFORMATTING if is_reformatting else facts.op if facts else "other",
        original_ms=pair.original.ms,
        shrunk_ms=pair.shrunk.ms,
        num_runs=pair.shrunk.count,
        lost_ms=pair.shrunk.ms - pair.original.ms / promised,
    )
    if row.lost_ms <= 0:
        return row
    cause, detail = cause_of(row, None if is_reformatting else facts, promised, conditions)
    return replace(row, cause=cause, detail=detail)
