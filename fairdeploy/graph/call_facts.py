"""What a call in the graph says of itself: its arguments, and the shape of its result."""

from __future__ import annotations

import torch
from torch import Tensor, fx


class UnlabelledError(Exception):
    """A rule asked for the labels of something that has none: its operator counts as unknown."""


def op_name(node: fx.Node) -> str:
    """The ATen operator's name without overload (``add`` for ``aten.add.Tensor``)."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def argument(node: fx.Node, index: int, name: str, default: object = None) -> object:
    """An operator's argument, given by position or by name."""
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def normal_dim(dim: int, rank: int) -> int:
    """A dimension's index counted from the front."""
    return dim + rank if dim < 0 else dim


def hint_shape(value: Tensor) -> tuple[int, ...]:
    """Shape with symbolic sizes read through their hints, which adds no guards."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value.shape)


def result_shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's tensor result at capture.

    Raises:
        UnlabelledError: It is not known.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise UnlabelledError(f"the shape of {node} is not known")
    return hint_shape(value)
