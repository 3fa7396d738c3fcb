"""Which operators read each parameter or buffer, and in which place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.graph.walk.rules.recurrent import RECURRENT_OPS

_VIEWS = {
    "t", "transpose", "permute", "numpy_T", "reshape", "view", "flatten", "unflatten", "unsqueeze",
    "squeeze", "expand", "slice", "select", "getitem", "split", "split_with_sizes", "chunk",
    "unbind", "narrow", "contiguous", "clone", "alias", "movedim", "swapaxes",
}  # fmt: skip
"""The same numbers in another form."""
_LAYER_OPS = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution", "linear", "addmm", "mm", "matmul", "bmm", "einsum", "embedding", *RECURRENT_OPS,
}  # fmt: skip
_BATCH_NORMS = {"batch_norm", "_native_batch_norm_legit_no_training"}
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
    return any(op in _LAYER_OPS for op, _ in readers)


def is_batch_norm_scale(readers: frozenset[Reader]) -> bool:
    """Whether a tensor that these read is the gamma of a batch norm."""
    return any(op in _BATCH_NORMS and place == _SCALE for op, place in readers)


def _readers_of(source: fx.Node) -> Iterator[Reader]:
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        for user in node.users:
            if op_name(user) not in _VIEWS:
                yield op_name(user), user.all_input_nodes.index(node)
            elif user not in seen:
                seen.add(user)
                stack.append(user)
