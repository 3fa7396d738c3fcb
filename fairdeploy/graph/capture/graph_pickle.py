"""A graph as plain data that pickles: operators by name, nodes by name, no traced values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.node import map_aggregate


@dataclass(frozen=True, slots=True)
class _NodeName:
    name: str


@dataclass(frozen=True, slots=True)
class _Operator:
    namespace: str
    packet: str
    overload: str


@dataclass(frozen=True, slots=True)
class PickledNodes:
    """Rows of (kind, name, target, args, kwargs), and how inputs and outputs are nested."""

    rows: tuple[tuple[str, str, Any, Any, Any], ...]
    nesting: Any


def pickled_nodes(graph: fx.Graph) -> PickledNodes:
    """What ``unpickled_graph`` needs."""
    codegen = graph._codegen
    nesting = codegen.pytree_info if isinstance(codegen, _PyTreeCodeGen) else None
    return PickledNodes(
        tuple(
            (node.op, node.name, _named(node.target), _data(node.args), _data(node.kwargs))
            for node in graph.nodes
        ),
        nesting,
    )


def unpickled_graph(data: PickledNodes) -> fx.Graph:
    """The graph again; nodes keep their names."""
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def value(item: Any) -> Any:
        if isinstance(item, _NodeName):
            return nodes[item.name]
        return _resolved(item)

    for op, name, target, args, kwargs in data.rows:
        nodes[name] = graph.create_node(
            op, _resolved(target), map_aggregate(args, value), map_aggregate(kwargs, value), name
        )
    if data.nesting is not None:
        graph.set_codegen(_PyTreeCodeGen(data.nesting))
    return graph


def _data(arguments: Any) -> Any:
    def data(item: Any) -> Any:
        return _NodeName(item.name) if isinstance(item, fx.Node) else _named(item)

    return map_aggregate(arguments, data)


def _named(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        return _Operator(target.namespace, name, target._overloadname)
    return target


def _resolved(target: Any) -> Any:
    if isinstance(target, _Operator):
        packet = getattr(getattr(torch.ops, target.namespace), target.packet)
        return getattr(packet, target.overload)
    return target
