"""The padded shortcut of a CIFAR ResNet as a convolution, for pruners that do not know padding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ConvolvedShortcut(nn.Module):
    """Takes the place of a ``BasicBlock``'s class."""

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, the same numbers."""
        block: Any = self
        residual = block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(x)))))
        out: Tensor = block.relu2(residual + block.shortcut(x))
        return out


def without_padding(module: nn.Module) -> nn.Module:
    """A copy in which convolutions with ones and zeros stand for padded shortcuts."""
    result = copy.deepcopy(module)
    for block in list(result.modules()):
        if type(block).__name__ == "BasicBlock" and block.is_downsampling:
            _convolve(block)
    return result


def padded_again(module: nn.Module) -> nn.Module:
    """Change the module back: its blocks pad."""
    for block in list(module.modules()):
        if isinstance(block, ConvolvedShortcut):
            del block.shortcut
            block.__class__ = block.__dict__.pop("padded_class")
    return module


def _convolve(block: Any) -> None:
    num_inputs, padding = block.conv1.in_channels, block.padding
    block.shortcut = nn.Conv2d(num_inputs, num_inputs + 2 * padding, 1, stride=2, bias=False)
    with torch.no_grad():
        block.shortcut.weight.zero_()
        block.shortcut.weight[padding : padding + num_inputs, :, 0, 0] = torch.eye(num_inputs)
    block.padded_class = type(block)
    block.__class__ = ConvolvedShortcut
