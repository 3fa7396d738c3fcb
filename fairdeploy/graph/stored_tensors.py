"""The parameters, buffers and constants that a graph fetches by name."""

from __future__ import annotations

from torch import Tensor, fx, nn


def fetch_tensor(module: nn.Module, name: str) -> Tensor | None:
    """The parameter, buffer or constant of this dotted name, as ``get_attr`` nodes give it."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, Tensor) else None


def fetches_of(module: fx.GraphModule, tensor: Tensor) -> list[fx.Node]:
    """The ``get_attr`` nodes that fetch a tensor, under whatever name."""
    nodes = (node for node in module.graph.nodes if node.op == "get_attr")
    return [node for node in nodes if fetch_tensor(module, str(node.target)) is tensor]
