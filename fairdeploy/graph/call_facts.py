"""What a call in the graph says of itself: arguments, shape of its result, module, tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.operators import kind_of


class UnlabelledError(Exception):
    """A rule asked for the labels of something that has none: its operator counts as unknown."""


def argument(node: fx.Node, index: int, name: str, default: object = None) -> object:
    """An operator's argument, given by position or by name."""
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def normal_dim(dim: int, rank: int) -> int:
    """A dimension's index counted from the front."""
    return dim + rank if dim < 0 else dim


def hint_of(size: object) -> int | None:
    """A size at capture, read through its hint, which adds no guards; None if data decide it."""
    hint = size if isinstance(size, int) else size.node.hint  # type: ignore[attr-defined]
    return None if hint is None else int(hint)


def number_at_capture(argument: object) -> int:
    """A number given to a call, or what the graph computed for it, say from the batch.

    Raises:
        UnlabelledError: The data decide it.
    """
    given = argument.meta["val"] if isinstance(argument, fx.Node) else argument
    hint = hint_of(given)
    if hint is None:
        raise UnlabelledError(f"{argument} depends on the data")
    return hint


def hint_shape(value: Tensor) -> tuple[int, ...]:
    """Shape at capture.

    Raises:
        UnlabelledError: Some size depends on the data.
    """
    sizes = [hint_of(size) for size in value.shape]
    if None in sizes:
        raise UnlabelledError("a size depends on the data")
    return tuple(size for size in sizes if size is not None)


def has_size_from_data(result: object) -> bool:
    """Whether a node's result, or one of several, has a size that the data decide."""
    if isinstance(result, (tuple, list)):
        return any(has_size_from_data(item) for item in result)
    return isinstance(result, Tensor) and any(hint_of(size) is None for size in result.shape)


def result_shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's tensor result at capture.

    Raises:
        UnlabelledError: It is not known.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise UnlabelledError(f"the shape of {node} is not known")
    return hint_shape(value)


def module_path(node: fx.Node) -> str:
    """Dotted path of the user's module that issued the call; empty for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def module_paths(module: fx.GraphModule) -> dict[str, str]:
    """The path for each call of ``UnitGraph.module``, by the node's name."""
    return {node.name: module_path(node) for node in module.graph.nodes if is_call(node)}


def is_call(node: fx.Node) -> bool:
    """Whether the node computes something, rather than being an input, a tensor or the output."""
    return node.op in ("call_function", "call_method", "call_module")


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


def writes(node: fx.Node) -> bool:
    """Whether a call writes to memory that it is given."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def delete_tensor(module: nn.Module, name: str) -> None:
    """Take the parameter or buffer of this dotted name out of a module (changes ``module``)."""
    owner, _, leaf = name.rpartition(".")
    delattr(module.get_submodule(owner), leaf)


def stored_factors(node: fx.Node) -> Iterator[str]:
    """Names of the stored tensors that a call reads, also through a transposition."""
    sources = list(node.all_input_nodes)
    while sources:
        source = sources.pop()
        if source.op == "get_attr":
            yield str(source.target)
        elif kind_of(source) in {"transpose", "permute", "same"}:
            sources.extend(source.all_input_nodes)
