"""Tiny networks as flat ATen graphs, the way exporters get them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.units import build_unit_graph
from tests.random_networks import RandomNetwork, randomise

EXAMPLE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


@cache
def captured(*kinds: str) -> fx.GraphModule:
    """A random network of these blocks that flattens before its classifier; read only."""
    kinds = kinds or ("residual", "grouped")
    network = RandomNetwork(kinds, (4,) * len(kinds), flatten=True)
    return build_unit_graph(randomise(network, seed=1), EXAMPLE).module


class TwoByTwo(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and the product of two embeddings."""
        a, b = self.first(left), self.second(right)
        return (a + b).mean((2, 3)), (a * b).mean((2, 3))


def captured_two_by_two() -> fx.GraphModule:
    return build_unit_graph(randomise(TwoByTwo(), seed=2), (EXAMPLE[0], EXAMPLE[0] + 1)).module
