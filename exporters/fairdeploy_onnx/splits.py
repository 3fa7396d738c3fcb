"""Splits into pieces whose length depends on the batch, as slices.

torch.onnx makes them a sequence of computed lengths, and its optimiser fails on that.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_SPLITS = {aten.chunk.default, aten.split.Tensor}

Size = fx.Node | int


def prepare_splits(exported: torch.export.ExportedProgram) -> None:
    """Rewrite every split of a dimension of any length (changes ``exported``)."""
    graph = exported.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _SPLITS and _has_any_length(node):
            _as_slices(graph, node)
    exported.graph_module.recompile()


def _has_any_length(node: fx.Node) -> bool:
    dim = _dim(node)
    return any(not isinstance(piece.shape[dim], int) for piece in node.meta["val"])


def _as_slices(graph: fx.Graph, node: fx.Node) -> None:
    """Let each piece be a slice of its own; nodes keep their names (changes ``graph``)."""
    source, num_pieces = node.args[0], len(node.meta["val"])
    with graph.inserting_before(node):
        size = _size(graph, node)
        ends: list[Size] = [0]
        for _ in range(num_pieces - 1):
            ends.append(_computed(graph, operator.add, ends[-1], size))
    ends.append(sys.maxsize)
    for piece in list(node.users):
        index = piece.args[1]
        assert isinstance(index, int)
        piece.target = aten.slice.Tensor
        piece.args = (source, _dim(node), ends[index], ends[index + 1])
    graph.erase_node(node)


def _size(graph: fx.Graph, node: fx.Node) -> Any:
    """Length of each piece; the last one may be shorter."""
    given: Any = node.args[1]
    if node.target is aten.split.Tensor:
        return given
    length = _computed(graph, aten.sym_size.int, node.args[0], _dim(node))
    rounded_up = _computed(graph, operator.add, length, given - 1)
    return _computed(graph, operator.floordiv, rounded_up, given)


def _computed(graph: fx.Graph, function: Any, *args: Any) -> Size:
    """A size computed in the graph at the insertion point; a number if it is one already."""
    values = [part.meta["val"] if isinstance(part, fx.Node) else part for part in args]
    value = values[0].shape[args[1]] if function is aten.sym_size.int else function(*values)
    if isinstance(value, int):
        return value
    node = graph.call_function(function, args)
    node.meta["val"] = value
    return node


def _dim(node: fx.Node) -> int:
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    assert isinstance(given, int)
    return given
