"""What each node of the network has to do, as a function of what the groups keep.

The work of a convolution, linear layer or matrix product is its MACs; that of everything else the
elements that it writes. A model of latency multiplies it with what one of them takes on a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import fx

from fairdeploy.graph.cost_terms import (
    Length,
    Lengths,
    cost_terms_of_product,
    gates_of,
    mac_products,
)
from fairdeploy.graph.unit_graph import CostDim, CostTerm, UnitGraph, group_of_unit

WorkKind = Literal["macs", "elements"]


@dataclass(frozen=True, slots=True)
class NodeWork:
    """The work of one node for one image."""

    node: str
    kind: WorkKind
    terms: tuple[CostTerm, ...]
    """Their sum is the work."""
    gates: tuple[CostDim, ...] = ()
    """Factors of the terms that are 0 where the node goes with a residual branch."""


def node_works(graph: UnitGraph) -> tuple[NodeWork, ...]:
    """The work of every node that makes a tensor, in graph order."""
    lengths = Lengths(graph.groups, group_of_unit(graph.groups, graph.num_units), _pairs(graph))
    batch = graph.inputs.batch
    _, gates = gates_of(graph.branches)
    return tuple(
        NodeWork(node.name, kind, tuple(terms), _dims(gates.get(node.name, [])))
        for node in graph.module.graph.nodes
        if node.op == "call_function" and node.name in graph.value_units
        for kind, terms in [_work(node, graph, lengths, batch, gates.get(node.name, []))]
    )


def _work(
    node: fx.Node, graph: UnitGraph, lengths: Lengths, batch: int, gates: list[Length]
) -> tuple[WorkKind, list[CostTerm]]:
    products = mac_products(node, lengths, graph.tensor_units, graph.value_units)
    if products:
        return "macs", list(_terms(products, batch, gates))
    written = [lengths.of(units, dim) for dim, units in enumerate(graph.value_units[node.name])]
    return "elements", list(_terms([(1.0, written)], batch, gates))


def _terms(
    products: list[tuple[float, list[Length]]], batch: int, gates: list[Length]
) -> Iterator[CostTerm]:
    for scale, factors in products:
        yield from cost_terms_of_product(scale / batch, [*factors, *gates])


def _dims(gates: list[Length]) -> tuple[CostDim, ...]:
    return tuple((gate.fixed, gate.by_group) for gate in gates)


def _pairs(graph: UnitGraph) -> list[tuple[int, int]]:
    return [(int(one), int(two)) for one, two in graph.pairs]
