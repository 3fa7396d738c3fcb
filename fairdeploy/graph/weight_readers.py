"""Which operators read each parameter or buffer, in which place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from fairdeploy.graph.operators import is_view, multiplies, op_name, row_of

_SCALE = 1
"""Place of gamma among the arguments of a batch norm."""

Reader = tuple[str, int]
"""Operator, and place among the nodes that it reads."""


def weight_readers(module: fx.GraphModule) -> Mapping[str, frozenset[Reader]]:
    """By tensor name, what reads it, directly or through views."""
    readers: dict[str, frozenset[Reader]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            readers[name] = readers.get(name, frozenset()).union(_readers_of(node))
    return readers


def is_layer_weight(readers: frozenset[Reader]) -> bool:
    """Whether these read a tensor as the weight of a layer, or its bias."""
    return any(multiplies(op) or row_of(op).kind == "table" for op, _ in readers)


def is_batch_norm_scale(readers: frozenset[Reader]) -> bool:
    """Whether a tensor that these read is the gamma of a batch norm."""
    return any(row_of(op).kind == "batch norm" and place == _SCALE for op, place in readers)


def _readers_of(source: fx.Node) -> Iterator[Reader]:
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        for user in node.users:
            if not is_view(user):
                yield op_name(user), user.all_input_nodes.index(node)
            elif user not in seen:
                seen.add(user)
                stack.append(user)
