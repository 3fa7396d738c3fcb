"""The layers that make a network's outputs: a pruner that cuts them changes what comes out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MIXES_CHANNELS = ("Addmm", "Mm", "Convolution", "Bmm", "Linear")


def output_layers(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[nn.Module]:
    """Convolutions and linear layers with no other one between them and an output.

    Found by walking the autograd graph backwards from each output.
    """
    owners = {
        id(parameter): layer
        for layer in network.modules()
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))
        for parameter in layer.parameters(recurse=False)
    }
    with torch.enable_grad():
        outputs = tensors_in(network(*(value.detach().clone() for value in inputs)))
    found: dict[int, nn.Module] = {}
    waiting: list[Any] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        function = waiting.pop()
        is_last = type(function).__name__.startswith(_MIXES_CHANNELS)
        for following, _ in function.next_functions:
            if following is None or following in seen:
                continue
            seen.add(following)
            if is_last:
                for parameter in _parameters_near(following):
                    if id(parameter) in owners:
                        found[id(owners[id(parameter)])] = owners[id(parameter)]
            else:
                waiting.append(following)
    return list(found.values())


def _parameters_near(function: Any) -> list[Tensor]:
    """The parameter that this argument of a matrix product is, perhaps transposed or reshaped."""
    reshaping = ("TBackward", "Transpose", "View", "Permute", "AsStrided", "Unsafe", "Reshape")
    while not hasattr(function, "variable"):
        if not type(function).__name__.startswith(reshaping) or not function.next_functions:
            return []
        function = function.next_functions[0][0]
        if function is None:
            return []
    return [function.variable]


def tensors_in(value: object) -> list[Tensor]:
    """Every tensor in a nest of outputs."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
