"""Notes on every node of an ONNX graph which node of the given torch graph it came from.

Exporting traces the module again, takes operators apart and fuses others, and renames most. torch
keeps the ancestors of each node in ``meta["from_node"]``, with the graph that each belonged to;
that, not the name, says which node of the module it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import fx

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

SOURCE_KEY = "fairdeploy.node"
"""Key in an ONNX node's metadata; its value is a name in the torch graph."""

_TORCH_KEY = "pkg.torch.onnx.fx_node"
_NODE_NAME = re.compile(r"%?(\w+) :")
_CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def source_names(program: ONNXProgram, module: fx.GraphModule) -> dict[int, str]:
    """For ``id`` of each ONNX node, the name of the node in ``module`` it came from.

    Nodes without one (sizes that tracing added) are left out.
    """
    if program.exported_program is None:
        return {}
    nodes = {node.name: node for node in program.exported_program.graph.nodes}
    result = {}
    for node in program.model.graph.all_nodes():
        found = _NODE_NAME.match(node.metadata_props.get(_TORCH_KEY, ""))
        traced = nodes.get(found[1]) if found else None
        if traced is None:
            continue
        name = _ancestor(_before_folded_norm(traced, node.op_type), module.graph)
        if name:
            result[id(node)] = name
    return result


def _before_folded_norm(node: fx.Node, op_type: str) -> fx.Node:
    """A convolution that a batch norm was folded into is noted as that batch norm."""
    if op_type in _CONTRACTIONS and "batch_norm" in str(node.target):
        return node.all_input_nodes[0]
    return node


def _ancestor(node: fx.Node, graph: fx.Graph) -> str:
    """The youngest ancestor in ``graph``; older ones may be of a graph that lay at its address."""
    names = {node.name for node in graph.nodes}
    return next(
        (
            source.name
            for source in _ancestors(node.meta.get("from_node"))
            if source.graph_id == id(graph) and source.name in names
        ),
        "",
    )


def _ancestors(sources: list[Any] | None) -> Iterator[Any]:
    for source in sources or ():
        yield source
        yield from _ancestors(source.from_node)
