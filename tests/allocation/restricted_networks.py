"""Small networks with known groups to restrict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph


class Bottleneck(nn.Module):
    """Widens to 24 channels and comes back to 12, beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(12, 24, 1)
        self.out = nn.Conv2d(24, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        result: Tensor = x + self.out(self.inner(x).relu())
        return result


class TwoStages(nn.Module):
    """Groups: ``stem.conv`` of 12 (a stream with ``body.0.out``), ``body.0.inner`` of 24,
    ``tail.conv`` of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(3, 12, 3, padding=1))
        self.stem.add_module("norm", nn.BatchNorm2d(12))
        self.body = nn.Sequential(Bottleneck())
        self.tail = nn.Sequential()
        self.tail.add_module("conv", nn.Conv2d(12, 32, 3, padding=1))
        self.relu = nn.ReLU()
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 5]."""
        x = self.tail(self.body(self.stem(x)))
        logits: Tensor = self.head(self.relu(x).mean((2, 3)))
        return logits


class Heads(nn.Module):
    """Four attention heads of 6 channels, then a neuron layer of 16 and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(10, 72)
        self.proj = nn.Linear(24, 10)
        self.pointwise = nn.Conv1d(10, 16, 1)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 3] of tokens [N, 7, 10]."""
        q, k, v = self.qkv(x).reshape(-1, 7, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.proj(attended.transpose(1, 2).reshape(-1, 7, 24))
        x = self.depthwise(self.pointwise(x.transpose(1, 2)))
        logits: Tensor = self.head(x.mean(2))
        return logits


def two_stages() -> UnitGraph:
    """The units of ``TwoStages``."""
    torch.manual_seed(0)
    return build_unit_graph(TwoStages().eval(), (torch.zeros(2, 3, 8, 8),))


def heads() -> UnitGraph:
    """The units of ``Heads``."""
    torch.manual_seed(0)
    return build_unit_graph(Heads().eval(), (torch.zeros(2, 7, 10),))
