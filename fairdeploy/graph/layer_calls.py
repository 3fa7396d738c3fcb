"""Calls of convolutions and linear layers in a captured graph, and how they walk over inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fairdeploy.graph.layer_rows import Window
from fairdeploy.graph.operators import kind_of

aten = torch.ops.aten


def is_layer_call(node: fx.Node) -> bool:
    """Whether a call is a layer whose padding, if it has one, is given in numbers."""
    target = node.target
    return kind_of(node) == "layer" and getattr(target, "_overloadname", "") == "default"


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen call by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = {}
    for index, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given = node.args[index] if index < len(node.args) else default
        arguments[argument.name] = node.kwargs.get(argument.name, given)
    return arguments


def window_of(arguments: Mapping[str, Any], kernel: tuple[int, ...]) -> Window:
    """Of a convolution with these bound arguments."""
    num_dims = len(kernel)
    return Window(
        kernel=kernel,
        stride=_per_dim(arguments["stride"], num_dims),
        padding=_per_dim(arguments["padding"], num_dims),
        dilation=_per_dim(arguments["dilation"], num_dims),
        groups=int(arguments["groups"]),
    )


def _per_dim(value: Any, num_dims: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in values) * (num_dims // len(values))
