"""Keeps the weights of the best moment of a training, and gives them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class BestWeights:
    """A copy of a network's parameters and buffers at its lowest error so far."""

    def __init__(self, module: nn.Module, error: float) -> None:
        """Remember the network as it is, with its error."""
        self.error = error
        self._tensors = copied_state(module)

    def offer(self, module: nn.Module, error: float) -> bool:
        """Remember the network if it is better; NaN never is."""
        is_better = error < self.error
        if is_better:
            self.error = error
            self._tensors = copied_state(module)
        return is_better

    def restore(self, module: nn.Module) -> None:
        """Change ``module`` to what was remembered."""
        load_state(module, self._tensors)

    def take(self, tensors: dict[str, Tensor], error: float) -> None:
        """Remember these instead."""
        self._tensors, self.error = tensors, error

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is remembered, by name."""
        return self._tensors


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(module)}


def load_state(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Change the parameters and buffers of ``module`` to these values."""
    with torch.no_grad():
        for name, tensor in named_tensors(module):
            tensor.copy_(tensors[name])


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, also those that the state dict leaves out."""
    yield from module.named_parameters()
    yield from module.named_buffers()


@contextmanager
def trainable(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """All floating-point parameters with gradients inside the block, as they were after it."""
    parameters = [p for p in module.parameters() if p.is_floating_point()]
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield parameters
    finally:
        for parameter, needed_grad in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(needed_grad)
