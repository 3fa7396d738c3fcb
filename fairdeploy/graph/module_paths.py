"""Where in the user's own modules each node of the graph comes from."""

from __future__ import annotations

from torch import fx


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
