"""What a captured graph computes, as text that is the same for the same graph in every process."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from fairdeploy.graph.call_facts import fetch_tensor

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def graph_text(module: fx.GraphModule) -> str:
    """One line for each node: its operator, its arguments, and the shape and type of its value.

    Sizes that vary are left open; tensors appear by name, so hash their values besides.
    """
    parts = [part for _, part in sorted(module.named_modules()) if isinstance(part, fx.GraphModule)]
    return "\n\n".join("\n".join(map(_line, part.graph.nodes)) for part in parts)


def graph_tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    """Every parameter, buffer and constant that the graph reads, by name."""
    names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    found = {name: fetch_tensor(module, name) for name in sorted(names)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _line(node: fx.Node) -> str:
    arguments = (_text(node.args), _text(node.kwargs))
    values = node.meta.get("val")
    shapes = map_aggregate(values, _shape) if node.op != "output" else None
    return " ".join((node.op, node.name, _target(node.target), *arguments, repr(shapes)))


def _target(target: Any) -> str:
    if isinstance(target, (str, torch._ops.OpOverload)):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _text(arguments: Any) -> str:
    def text(item: Any) -> Any:
        return f"%{item.name}" if isinstance(item, fx.Node) else item

    return _ADDRESS.sub("", repr(map_aggregate(arguments, text)))


def _shape(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return type(value).__name__
    sizes = (size if isinstance(size, int) else "?" for size in value.shape)
    return f"{value.dtype}{list(sizes)}"
