"""What each node of the network has to do before and after units go, and what holds its widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.call_facts import module_path
from fairdeploy.graph.cost_terms import NodeWork, node_works
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import KEPT, CostTerm, UnitGraph, UnitIds, group_of_unit
from fairdeploy.graph.walk.label_grids import rows_of

BeforeAfter = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One node, before and after."""

    node: str
    module: str
    op: str
    macs: BeforeAfter
    """Per image; (0, 0) for what is no convolution, linear layer or matrix product."""
    elements: BeforeAfter
    """Numbers read and written per image, weights included."""
    channels: tuple[int, int]
    """Of the output, where ``macs`` are above 0; else (0, 0)."""
    inputs: tuple[int, int] = (0, 0)
    """Channels of what it reads, likewise."""
    is_depthwise: bool = False
    groups: tuple[int, ...] = ()
    """Indices of the groups whose units lie in its dimensions."""
    frozen_reason: str = ""
    """Why the outputs of its weight stay, where an operation holds them."""


def layer_facts(graph: UnitGraph, removed: NDArray[np.bool_]) -> dict[str, LayerFacts]:
    """Facts of every node that makes a tensor, by name, in graph order.

    Args:
        graph: The network.
        removed: Boolean, shape [num_units].
    """
    sizes = _Sizes(graph, removed)
    whole = np.array([group.size for group in graph.groups], dtype=np.int64)
    gone = np.array([removed[g.blocks].sum(1).max() for g in graph.groups], dtype=np.int64)
    kept = (whole, whole - gone)
    works = {work.node: work for work in node_works(graph)}
    frozen = {name: group for group in graph.frozen_groups for name in group.tensors}
    result = {}
    for node in graph.module.graph.nodes:
        if node.name not in works:
            continue
        macs = _macs(works[node.name], kept)
        weight = _weight(node)
        held = frozen.get(weight)
        result[node.name] = LayerFacts(
            node=node.name,
            module=module_path(node),
            op=op_name(node),
            macs=macs,
            elements=sizes.moved(node),
            channels=sizes.channels(node, node) if macs[0] else (0, 0),
            inputs=sizes.channels(node.all_input_nodes[0], node) if macs[0] else (0, 0),
            is_depthwise=_is_depthwise(node, graph),
            groups=sizes.groups(node),
            frozen_reason=f"{held.op}: {held.reason}" if held else "",
        )
    return result


class _Sizes:
    """Sizes of values and tensors with and without the removed units."""

    def __init__(self, graph: UnitGraph, removed: NDArray[np.bool_]) -> None:
        self._graph = graph
        self._stays = graph.staying(removed)
        self._gone = {name for branch in graph.branches_gone(removed) for name in branch.nodes}
        self._group_of_unit = group_of_unit(graph.groups, graph.num_units)

    def moved(self, node: fx.Node) -> BeforeAfter:
        """Elements of all operands and the result, for one image."""
        before = after = 0.0
        for source in (*node.all_input_nodes, node):
            dims, share = self._dims(source)
            lengths = [self._lengths(units, dim) for dim, units in enumerate(dims)]
            if lengths:
                before += share * math.prod(length for length, _ in lengths)
                after += share * math.prod(length for _, length in lengths)
        return before, 0.0 if node.name in self._gone else after

    def channels(self, node: fx.Node, layer: fx.Node) -> tuple[int, int]:
        """Length of a value's dimension with the channels that ``layer`` reads or makes."""
        dims = self._dims(node)[0]
        if not dims:
            return 0, 0
        # [N, C, …] of a convolution; [N, …, C] of the others
        dim = 1 if op_name(layer).startswith("conv") and len(dims) > 1 else len(dims) - 1
        return self._lengths(dims[dim], dim)

    def groups(self, node: fx.Node) -> tuple[int, ...]:
        """Groups with units in any operand or the result."""
        found: set[int] = set()
        for source in (*node.all_input_nodes, node):
            for units in self._dims(source)[0]:
                for owner in self._graph.owners(units):
                    numbers = np.unique(owner[(owner != KEPT) & (owner < self._graph.num_units)])
                    found.update(int(group) for group in self._group_of_unit[numbers])
        return tuple(sorted(found))

    def _dims(self, node: fx.Node) -> tuple[Sequence[UnitIds], float]:
        """Its unit numbers, and the share of its elements that one image has."""
        if node.op == "get_attr":
            return self._graph.tensor_units.get(str(node.target), ()), 1.0
        return self._graph.value_units.get(node.name, ()), 1.0 / self._graph.inputs.batch

    def _lengths(self, units: UnitIds, dim: int) -> tuple[int, int]:
        row = rows_of(units, dim)[0]
        return len(row), int(self._stays[row].sum())


def _macs(work: NodeWork, kept: Sequence[NDArray[np.int64]]) -> BeforeAfter:
    if work.kind != "macs":
        return 0.0, 0.0
    before, after = (sum(_value(term, counts) for term in work.terms) for counts in kept)
    return float(before), float(after)


def _value(term: CostTerm, kept: NDArray[np.int64]) -> float:
    lengths = (fixed + sum(n * int(kept[g]) for g, n in shares) for fixed, shares in term.dims)
    return math.prod(lengths, start=term.coefficient)


def _weight(node: fx.Node) -> str:
    """Name of the weight that a layer multiplies with; "" if it has none."""
    stored = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
    return stored[0] if stored else ""


def _is_depthwise(node: fx.Node, graph: UnitGraph) -> bool:
    """A convolution that multiplies each channel with a kernel of its own."""
    dims = graph.tensor_units.get(_weight(node), ())
    if not op_name(node).startswith("conv") or len(dims) < 3:
        return False
    outputs, inputs = (rows_of(dims[dim], dim)[0] for dim in (0, 1))
    return len(inputs) == 1 and len(outputs) > 1
