"""The CIFAR ResNets of He et al. 2015, section 4.2, with parameter-free shortcuts (option A)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    The activations are modules of their own, so that a hook can read each layer's output after
    norm and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.is_downsampling = stride != 1 or in_channels != out_channels
        self.padding = out_channels // 4

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, [N, out_channels, H / stride, W / stride]."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.is_downsampling:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        out: Tensor = self.relu2(residual + x)
        return out


class CifarResNet(nn.Module):
    """ResNet of ``depth`` = 6n + 2 layers for 32x32 images."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, not {depth}")
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, num_blocks, stride=1)
        self.layer2 = _stage(16, 32, num_blocks, stride=2)
        self.layer3 = _stage(32, 64, num_blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, num_classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def resnet20() -> CifarResNet:
    """For ``--arch tests/benchmarks/cifar_resnet.py:resnet20``."""
    return CifarResNet(20)


def resnet56() -> CifarResNet:
    """For ``--arch tests/benchmarks/cifar_resnet.py:resnet56``."""
    return CifarResNet(56)


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


def stream_layers(module: nn.Module) -> list[nn.Module]:
    """What makes the residual streams of a CIFAR ResNet; nothing of other networks."""
    blocks = [layer for layer in module.modules() if hasattr(layer, "is_downsampling")]
    if type(module).__name__ != "CifarResNet":
        return []
    return [module.get_submodule("conv1"), *(block.get_submodule("conv2") for block in blocks)]
