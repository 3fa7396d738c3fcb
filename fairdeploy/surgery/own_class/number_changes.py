"""Which whole numbers a module's calls had before the removal, and what they became.

Two sources: constants in the calls' arguments (``view`` sizes, split sizes, bounds), and, wider,
lengths of the dimensions that the calls take and give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.own_class.attribute_slots import Number
from fairdeploy.surgery.own_class.module_calls import issuers

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(slots=True)
class NumberChanges:
    """Old numbers, or whole argument lists, to what they became in order of appearance."""

    constants: dict[Number, dict[Number, None]] = field(default_factory=lambda: defaultdict(dict))
    lengths: dict[Number, dict[Number, None]] = field(default_factory=lambda: defaultdict(dict))

    def only(self, old: int) -> int:
        """What a constant became, if that is one number; otherwise the old one."""
        new = [value for value in self.constants.get(old, {}) if isinstance(value, int)]
        return new[0] if len(new) == 1 else old

    def plain(self, old: Number) -> Number:
        """The first guess for a slot: what the constants say where they say one thing."""
        if isinstance(old, int):
            return self.only(old)
        whole = list(self.constants.get(old, {}))
        if len(whole) == 1:
            return whole[0]
        return tuple(self.only(item) for item in old)

    def options(self, old: Number) -> list[Number]:
        """All that a slot may become, likeliest first; the old value among them."""
        found: dict[Number, None] = {self.plain(old): None}
        found |= self.constants.get(old, {})
        if isinstance(old, int):
            found |= self.lengths.get(old, {})
        else:
            found[tuple(self._only_length(item) for item in old)] = None
        found[old] = None
        return list(found)

    def _only_length(self, old: int) -> int:
        new = [value for value in self.lengths.get(old, {}) if isinstance(value, int)]
        return new[0] if len(new) == 1 else self.only(old)


def changed_constants(graph: UnitGraph, shrunk: fx.GraphModule) -> dict[str, NumberChanges]:
    """By path of the issuing module; one old number may have become several."""
    changes: dict[str, NumberChanges] = defaultdict(NumberChanges)
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    for original in graph.module.graph.nodes:
        node = rewritten.get(original.name)
        if original.op == "call_function" and node is not None:
            for old, new in _changes(original, node):
                if old != new:
                    changes[_issuer(original)].constants[old][new] = None
    return changes


def add_changed_lengths(
    changes: dict[str, NumberChanges], graph: UnitGraph, before: Shapes, after: Shapes
) -> None:
    """Add the lengths of what each module's calls take and give (changes ``changes``)."""
    for node in graph.module.graph.nodes:
        if node.op != "call_function":
            continue
        lengths = changes[_issuer(node)].lengths
        for value in (node, *node.all_input_nodes):
            pairs = zip(before.get(value.name, ()), after.get(value.name, ()), strict=False)
            for old, new in pairs:
                if old != new:
                    lengths[old][new] = None


def _issuer(node: fx.Node) -> str:
    paths = issuers(node)
    return paths[-1] if paths else ""


def _changes(original: fx.Node, node: fx.Node) -> list[tuple[Number, Number]]:
    """Pairs of old and new numbers, and of whole lists of them, in one call's arguments."""
    if original.target is node.target:
        pairs: list[tuple[Number, Number]] = []
        for old, new in zip(_lists(original.args), _lists(node.args), strict=False):
            pairs += zip(old, new, strict=False)
            pairs.append((old, new))
        old_kwargs = {
            name: original.kwargs[name] for name in node.kwargs if name in original.kwargs
        }
        for name, value in old_kwargs.items():
            if isinstance(value, int) and isinstance(node.kwargs[name], int):
                pairs.append((value, node.kwargs[name]))  # type: ignore[arg-type]
        return [pair for pair in pairs if -1 not in pair and () not in pair]
    if op_name(original) not in {"split", "chunk", "tensor_split"}:
        return []
    # a split into equal pieces has become a split into these sizes
    size, sizes = original.args[1], node.args[1]
    if not (isinstance(size, int) and isinstance(sizes, (list, tuple))):
        return []
    whole = [new for new in sizes if isinstance(new, int)]
    if op_name(original) == "split":
        pieces = original.meta["val"]
        even = tuple(int(piece.shape[_split_dim(node)]) for piece in pieces)
        return [*((size, new) for new in whole[: len(whole) - 1]), (even, tuple(whole))]
    return []


def _split_dim(node: fx.Node) -> int:
    dim = node.args[2] if len(node.args) > 2 else 0
    return dim if isinstance(dim, int) else 0


def _lists(value: object) -> list[tuple[int, ...]]:
    """Each list of arguments as whole numbers, -1 for nodes and all else, to keep the places."""
    if not isinstance(value, (list, tuple)):
        return []
    own = tuple(
        item if isinstance(item, int) and not isinstance(item, bool) else -1 for item in value
    )
    return [own, *(inner for item in value for inner in _lists(item))]
