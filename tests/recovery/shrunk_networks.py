"""Small networks and their shrunk forms, for the tests of recovery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import randomise


class SmallResidual(nn.Module):
    """Stem, a residual block with batch norms and ReLU after the sum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True, slots=True)
class Pair:
    """A network's graph, which units went, and the network without them."""

    graph: UnitGraph
    removed: NDArray[np.bool_]
    shrunk: fx.GraphModule


def noise(count: int, seed: int = 0) -> Tensor:
    """Images, [count, 3, 8, 8]."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def shrink(module: nn.Module, share: float, seed: int = 0) -> Pair:
    """Remove a random share of each group's units, at least one from each of several."""
    graph = build_unit_graph(module, (noise(2),))
    generator = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    for group in graph.groups:
        count = min(int(np.ceil(group.size * share)), group.size - 1) if share > 0 else 0
        for block in group.blocks:
            removed[generator.choice(block, count, replace=False)] = True
    return Pair(graph, removed, remove_units(graph, removed).module)


def shrink_channels(module: nn.Module, tensor: str, channels: list[int]) -> Pair:
    """Remove the units that hold these output channels of a weight."""
    graph = build_unit_graph(module, (noise(2),))
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    removed[graph.tensor_units[tensor][0][channels]] = True
    return Pair(graph, removed, remove_units(graph, removed).module)


def small_residual(seed: int = 0) -> SmallResidual:
    """With random norm statistics, in eval mode."""
    module = SmallResidual()
    randomise(module, seed)
    return module


def with_varied_answers() -> SmallResidual:
    """A network that gives each class to some of the images."""
    module = small_residual()
    with torch.no_grad():
        logits = module(noise(200, seed=4))
        module.head.bias.sub_(logits.mean(0)).div_(logits.std(0))
        module.head.weight.div_(logits.std(0)[:, None])
    return module
