"""Replace in-place calls by their out-of-place twins in a captured graph.

``run_decompositions`` would do it too, but it also turns batch norm and dropout into their
inference forms, and the shrunk network must stay trainable.
"""

from __future__ import annotations

import torch
from torch import fx

_VIEW_OPS = {
    "view", "slice", "select", "transpose", "permute", "unsqueeze", "squeeze", "expand", "split",
    "split_with_sizes", "chunk", "unbind", "narrow", "reshape", "flatten", "t", "alias", "detach",
    "as_strided", "diagonal", "unflatten", "getitem", "view_as", "reshape_as", "expand_as",
    "contiguous", "movedim", "swapaxes", "to", "dropout", "feature_dropout",
}  # fmt: skip


def op_name(node: fx.Node) -> str:
    """The ATen operator's name without overload (``add`` for ``aten.add.Tensor``)."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def make_functional(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Change ``graph_module`` so that no call writes to its input, where that is safe; return it.

    A call that writes through a view of something still in use is left alone: no rule knows it, so
    the unit graph freezes what it touches.
    """
    graph = graph_module.graph
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        twin = _out_of_place(node)
        if twin is None:
            continue
        written = node.args[0]
        if not isinstance(written, fx.Node) or _is_aliased_later(written, node, position):
            continue
        later = [user for user in written.users if position[user] > position[node]]
        node.target = twin
        for user in later:
            user.replace_input_with(written, node)
    _allow_other_strides(graph)
    _drop_guards(graph_module)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _allow_other_strides(graph: fx.Graph) -> None:
    """Turn ``view``, which depends on how a kernel lays out memory, into ``reshape``."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default


def _out_of_place(node: fx.Node) -> torch._ops.OpOverload | None:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.split("::")[-1]
    if not name.endswith("_") or name.endswith("__") or target.namespace != "aten":
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = getattr(packet, target._overloadname, None)
    return overload if isinstance(overload, torch._ops.OpOverload) else None


def _is_aliased_later(written: fx.Node, writer: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Whether a view of ``written``, or what it is a view of, is read after ``writer``."""
    related = {written}
    stack = [written]
    while stack:
        node = stack.pop()
        neighbours = [user for user in node.users if op_name(user) in _VIEW_OPS]
        if op_name(node) in _VIEW_OPS:
            neighbours += node.all_input_nodes[:1]
        for other in neighbours:
            if other not in related and position[other] < position[writer]:
                related.add(other)
                stack.append(other)
    related.discard(written)
    return any(position[user] > position[writer] for node in related for user in node.users)


def _drop_guards(graph_module: fx.GraphModule) -> None:
    """Remove shape guard calls: they would refuse the shrunk sizes (changes the graph)."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph_module.graph.erase_node(node)
