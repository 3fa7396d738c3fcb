"""Parameters, MACs and bytes as sums of products of dimension lengths.

Counting convention: one fused multiply-add is one MAC, per image; only convolutions, linear layers
and matrix products count (as in fvcore). Bytes are those of all parameters and buffers as stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import fetch_tensor, has_size_from_data
from fairdeploy.graph.operators import kind_of, op_name
from fairdeploy.graph.unit_graph import (
    KEPT,
    Branch,
    CostDim,
    CostTerm,
    UnitGraph,
    UnitIds,
    group_of_unit,
)
from fairdeploy.graph.walk.label_grids import rows_of
from fairdeploy.graph.walk.rules.einsum import einsum_letters
from fairdeploy.graph.walk.rules.recurrent import recurrent_call


@dataclass(frozen=True, slots=True)
class Length:
    """How many indices of a dimension stay: a constant, and shares of what groups keep."""

    fixed: int
    by_group: tuple[tuple[int, float], ...] = ()
    """Group index, and how many indices each of its kept units brings."""
    by_pair: tuple[tuple[int, int, float], ...] = ()
    """Two group indices, and how many indices each pair of kept units brings."""


LengthsOf = Callable[[object], list[Length]]
_SINGLE = Length(1)


class Lengths:
    """Reads the length of a dimension off its unit numbers.

    All units of a group bring equally many indices to a dimension, so counts suffice. In a balanced
    group "a unit" is one of each block.
    """

    def __init__(self, graph: UnitGraph) -> None:
        self._graph = graph
        self._sizes = [group.size for group in graph.groups]
        self._group_of_unit = group_of_unit(graph.groups, graph.num_units)

    def of_node(self, node: object) -> list[Length]:
        """Of each dimension of a value, or of a stored tensor that the node fetches."""
        assert isinstance(node, fx.Node)
        if node.op == "get_attr":
            return self.of_all(self._graph.tensor_units[str(node.target)])
        return self.of_all(self._graph.value_units[node.name])

    def of_all(self, dims: Sequence[UnitIds]) -> list[Length]:
        """Of each dimension, from its unit numbers."""
        return [self.of(units, dim) for dim, units in enumerate(dims)]

    def of(self, units: UnitIds, dim: int) -> Length:
        """Length of dimension ``dim``, whose indices belong to ``units``."""
        if units.ndim > 1:
            units = rows_of(units, dim)[0]
        owned = units[units != KEPT]
        num_units = len(self._group_of_unit)
        groups, counts = np.unique(
            self._group_of_unit[owned[owned < num_units]], return_counts=True
        )
        by_group = tuple(
            (int(group), _whole(count / self._sizes[group]))
            for group, count in zip(groups, counts, strict=True)
        )
        met = self._group_of_unit[self._graph.pairs[owned[owned >= num_units] - num_units]]
        pairs, counts = np.unique(met, axis=0, return_counts=True)
        by_pair = tuple(
            (int(one), int(two), _whole(count / self._sizes[one] / self._sizes[two]))
            for (one, two), count in zip(pairs, counts, strict=True)
        )
        return Length(len(units) - len(owned), by_group, by_pair)


def _whole(number: float) -> float:
    return round(number) if abs(number - round(number)) < 1e-9 else number


def cost_terms_of_product(coefficient: float, lengths: Sequence[Length]) -> list[CostTerm]:
    """The product of some lengths as terms whose factors are sums over groups."""
    terms: list[CostTerm] = []
    choices: list[list[tuple[float, tuple[CostDim, ...]]]] = []
    for length in lengths:
        options: list[tuple[float, tuple[CostDim, ...]]] = []
        if length.by_group:
            options.append((1.0, ((length.fixed, length.by_group),)))
        elif length.fixed or not length.by_pair:
            options.append((float(length.fixed), ()))
        for one, two, count in length.by_pair:
            options.append((count, ((0, ((one, 1),)), (0, ((two, 1),)))))
        choices.append(options)
    for chosen in itertools.product(*choices):
        scale = math.prod((factor for factor, _ in chosen), start=coefficient)
        terms.append(CostTerm(scale, tuple(dim for _, dims in chosen for dim in dims)))
    return terms


Gates = Mapping[str, list[Length]]
"""By name: lengths of 1, or of 0 if a residual branch goes."""


def gates_of(branches: Sequence[Branch]) -> tuple[Gates, Gates]:
    """Of tensors and of nodes: a gate for each branch that they go with."""
    of_tensor: dict[str, list[Length]] = {}
    of_node: dict[str, list[Length]] = {}
    for branch in branches:
        gate = Length(0, ((branch.group, 1),))
        for name in branch.tensors:
            of_tensor.setdefault(name, []).append(gate)
        for name in (*branch.nodes, branch.total):  # the sum has nothing to add
            of_node.setdefault(name, []).append(gate)
    return of_tensor, of_node


def build_cost_terms(graph: UnitGraph) -> dict[str, tuple[CostTerm, ...]]:
    """Cost terms of ``params``, ``macs`` and ``size``."""
    of_tensor, of_node = gates_of(graph.branches)
    lengths = Lengths(graph)
    params: list[CostTerm] = []
    size: list[CostTerm] = []
    parameter_names = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    seen: set[int] = set()
    for name, dims in graph.tensor_units.items():
        tensor = fetch_tensor(graph.module, name)
        assert tensor is not None
        if id(tensor) in seen:  # shared: it is stored once
            continue
        seen.add(id(tensor))
        found = [*lengths.of_all(dims), *of_tensor.get(name, [])]
        if name in parameter_names:
            params += cost_terms_of_product(1.0, found)
        size += cost_terms_of_product(tensor.element_size(), found)
    macs = [
        term
        for node in graph.module.graph.nodes
        for term in _terms(
            mac_products(node, lengths), graph.inputs.batch, of_node.get(node.name, [])
        )
    ]
    return {"params": tuple(params), "macs": tuple(macs), "size": tuple(size)}


def mac_products(node: fx.Node, lengths: Lengths) -> list[tuple[float, list[Length]]]:
    """Factors whose product is the node's MACs for the whole example batch."""
    name = op_name(node) if node.op == "call_function" else ""
    if any(has_size_from_data(one.meta.get("val")) for one in (node, *node.all_input_nodes)):
        return []  # nobody knows how many rows it has
    units = lengths.of_node
    if name == "linear":
        return [(1.0, [*units(node)[:-1], *units(node.args[1])])]
    if name in {"conv1d", "conv2d", "conv3d", "convolution"}:
        weight = units(node.args[1])
        is_transposed = name == "convolution" and bool(node.args[6])
        if not is_transposed:
            return [(1.0, [*units(node)[:1], *weight, *units(node)[2:]])]
    if name.startswith("conv"):
        source = units(node.args[0])
        return [(1.0, [*source[:1], *units(node.args[1]), *source[2:]])]
    if name in {"matmul", "bmm", "mm"}:
        return [(1.0, [*units(node), units(node.args[0])[-1]])]
    if name in {"addmm", "baddbmm"}:
        return [(1.0, [*units(node), units(node.args[1])[-1]])]
    if name == "scaled_dot_product_attention":
        query, key, value = (units(part) for part in node.args[:3])
        scores = [*query[:-1], key[-2]]
        return [(1.0, [*scores, query[-1]]), (1.0, [*scores, value[-1]])]
    if name == "einsum":
        return _einsum_macs(node, units)
    if kind_of(node) in {"recurrent", "cell"}:
        return _recurrent_macs(node, units)
    return []


def _recurrent_macs(node: fx.Node, units: LengthsOf) -> list[tuple[float, list[Length]]]:
    """Each step of each layer multiplies with each of its matrices."""
    call = recurrent_call(node)
    if call is not None:
        steps = units(call.data)[:-1]
        return [(1.0, [*steps, *units(matrix)]) for matrix in call.matrices]
    if kind_of(node) != "cell":
        return []
    return [(1.0, [*units(node.args[0])[:-1], *units(matrix)]) for matrix in node.args[2:4]]


def _einsum_macs(node: fx.Node, units: LengthsOf) -> list[tuple[float, list[Length]]]:
    operands = node.args[1]
    assert isinstance(operands, (list, tuple))
    if len(operands) < 2:
        return []
    dims = [units(operand) for operand in operands]
    spelled, _ = einsum_letters(str(node.args[0]), tuple(map(len, dims)))
    letters: dict[str, Length] = {}
    for part, operand in zip(spelled, dims, strict=True):
        for letter, length in zip(part, operand, strict=True):
            if letters.get(letter, _SINGLE) == _SINGLE:
                letters[letter] = length
    return [(1.0, list(letters.values()))]


# ---- the work of each node, for models of latency ------------------------------------------------


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
    """The work of every node that makes a tensor, in graph order.

    That of a convolution, linear layer or matrix product is its MACs; that of everything else the
    elements that it writes. A model of latency multiplies it with what one takes on a device.
    """
    lengths, batch = Lengths(graph), graph.inputs.batch
    _, gates = gates_of(graph.branches)
    return tuple(
        NodeWork(node.name, kind, tuple(terms), _dims(gates.get(node.name, [])))
        for node in graph.module.graph.nodes
        if node.op == "call_function" and node.name in graph.value_units
        for kind, terms in [_work(node, lengths, batch, gates.get(node.name, []))]
    )


def _work(
    node: fx.Node, lengths: Lengths, batch: int, gates: list[Length]
) -> tuple[WorkKind, list[CostTerm]]:
    products = mac_products(node, lengths)
    if products:
        return "macs", list(_terms(products, batch, gates))
    return "elements", list(_terms([(1.0, lengths.of_node(node))], batch, gates))


def _terms(
    products: list[tuple[float, list[Length]]], batch: int, gates: list[Length]
) -> Iterator[CostTerm]:
    for scale, factors in products:
        yield from cost_terms_of_product(scale / batch, [*factors, *gates])


def _dims(gates: list[Length]) -> tuple[CostDim, ...]:
    return tuple((gate.fixed, gate.by_group) for gate in gates)
