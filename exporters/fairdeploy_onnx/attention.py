"""Attention in the one form that torch.onnx takes: four dimensions, and a contiguous result.

torch.onnx refuses queries of three or five dimensions. And tracing turns the reshape behind an
attention call into a view where one kernel's memory layout allows that; torch.onnx takes attention
apart later, where the layout is another and a view impossible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_RANK = 4
aten = torch.ops.aten


def prepare_attention(exported: torch.export.ExportedProgram) -> None:
    """Rewrite every attention call of a program (changes ``exported``)."""
    graph = exported.graph_module.graph
    for node in list(graph.nodes):
        if node.target is aten.scaled_dot_product_attention.default:
            _prepare(graph, node)
    exported.graph_module.recompile()


def _prepare(graph: fx.Graph, node: fx.Node) -> None:
    shape = list(node.meta["val"].shape)
    operands = [part for part in (*node.args[:3], _mask(node)) if isinstance(part, fx.Node)]
    has_fixed_middle = all(
        isinstance(size, int)
        for part in operands
        for size in part.meta["val"].shape[1:-2]
    )  # fmt: skip
    is_alike = all(len(part.meta["val"].shape) == len(shape) for part in operands)
    changes_rank = len(shape) != _RANK and has_fixed_middle and is_alike
    if changes_rank:
        with graph.inserting_before(node):
            for part in operands:
                node.replace_input_with(part, _with_four_dims(graph, part))
        node.meta = {**node.meta, "val": _value(node)}
    with graph.inserting_after(node):
        last = _call(graph, aten.clone.default, node, memory_format=torch.contiguous_format)
    kept = {last}
    if changes_rank:
        with graph.inserting_after(last):
            back = aten.squeeze.dim if len(shape) < _RANK else aten.unflatten.int
            arguments = (0,) if len(shape) < _RANK else (1, shape[1:-2])
            last = _call(graph, back, last, *arguments)
        kept.add(last)
    node.replace_all_uses_with(last, lambda user: user not in kept)


def _mask(node: fx.Node) -> object:
    return node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")


def _with_four_dims(graph: fx.Graph, part: fx.Node) -> fx.Node:
    """A new first dimension, or all between the first and the last two joined."""
    rank = len(part.meta["val"].shape)
    if rank < _RANK:
        return _call(graph, aten.unsqueeze.default, part, 0)
    return _call(graph, aten.flatten.using_ints, part, 1, rank - 3)


def _call(graph: fx.Graph, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new call at the insertion point, with the value that tracing would have noted."""
    node = graph.call_function(target, args, kwargs)
    node.meta = {**args[0].meta, "val": _value(node)}
    return node


def _value(node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
    mode = next(part.meta["val"].fake_mode for part in node.all_input_nodes)
    assert callable(node.target)
    with mode:
        return node.target(*args, **kwargs)
