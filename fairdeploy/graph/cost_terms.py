"""Parameters, MACs and bytes as sums of products of dimension lengths.

Counting convention: one fused multiply-add is one MAC, per image; only convolutions, linear layers
and matrix products count (as in fvcore). Bytes are those of all parameters and buffers as stored.
"""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from fairdeploy.graph.functionalize import op_name
from fairdeploy.graph.labels import Labels
from fairdeploy.graph.propagation import Propagation, fetch_tensor
from fairdeploy.graph.unit_graph import KEPT, CostTerm, UnitIds


def dim_lengths(units: UnitIds, group_of_unit: Labels) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Fixed length and (group, multiplicity) pairs of one dimension.

    Every unit of a group has equally many indices in a dimension, so counts suffice.
    """
    removable = units[units != KEPT]
    fixed = len(units) - len(removable)
    if not len(removable):
        return fixed, ()
    distinct, counts = np.unique(removable, return_counts=True)
    groups = group_of_unit[distinct]
    return fixed, tuple(
        (int(group), int(counts[groups == group][0])) for group in np.unique(groups)
    )


def build_cost_terms(
    walk: Propagation,
    tensor_units: dict[str, tuple[UnitIds, ...]],
    value_units: dict[str, tuple[UnitIds, ...]],
    group_of_unit: Labels,
    batch: int,
) -> dict[str, tuple[CostTerm, ...]]:
    """Cost terms of ``params``, ``macs`` and ``size``."""

    def term(coefficient: float, dims: list[UnitIds]) -> CostTerm:
        lengths = [dim_lengths(units, group_of_unit) for units in dims]
        constant = math.prod(fixed for fixed, pairs in lengths if not pairs)
        varying = tuple((fixed, pairs) for fixed, pairs in lengths if pairs)
        return CostTerm(coefficient * constant, varying)

    params: list[CostTerm] = []
    size: list[CostTerm] = []
    parameter_names = {name for name, _ in walk.module.named_parameters(remove_duplicate=False)}
    for name, dims in tensor_units.items():
        tensor = fetch_tensor(walk.module, name)
        assert tensor is not None
        if name in parameter_names:
            params.append(term(1.0, list(dims)))
        size.append(term(tensor.element_size(), list(dims)))
    macs = [
        term(scale / batch, dims)
        for node in walk.module.graph.nodes
        for scale, dims in mac_products(node, tensor_units, value_units)
    ]
    return {"params": tuple(params), "macs": tuple(macs), "size": tuple(size)}


def mac_products(
    node: fx.Node,
    tensor_units: dict[str, tuple[UnitIds, ...]],
    value_units: dict[str, tuple[UnitIds, ...]],
) -> list[tuple[float, list[UnitIds]]]:
    """Factors whose product is the node's MACs for the whole example batch."""
    name = op_name(node) if node.op == "call_function" else ""

    def units(argument: object) -> list[UnitIds]:
        assert isinstance(argument, fx.Node)
        if argument.op == "get_attr":
            return list(tensor_units[str(argument.target)])
        return list(value_units[argument.name])

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
    return []


def _einsum_macs(node: fx.Node, units: object) -> list[tuple[float, list[UnitIds]]]:
    inputs = str(node.args[0]).replace(" ", "").partition("->")[0]
    operands = node.args[1]
    assert isinstance(operands, (list, tuple))
    assert callable(units)
    if "." in inputs or len(operands) < 2:
        return []
    letters: dict[str, UnitIds] = {}
    for part, operand in zip(inputs.split(","), operands, strict=True):
        for letter, labels in zip(part, units(operand), strict=True):
            letters.setdefault(letter, labels)
    return [(1.0, list(letters.values()))]
