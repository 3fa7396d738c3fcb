"""Weights computed from parameters are folded, and their channels can go."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.removal import remove_units
from tests.surgery.exactness import random_removal

EXAMPLE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Standardised(nn.Conv2d):
    """Mean and variance of each filter are taken out, as in weight standardisation."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        scale = self.weight.var((1, 2, 3), keepdim=True).add(1e-5).rsqrt()
        return nn.functional.conv2d(x, (self.weight - mean) * scale, self.bias)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    make = Standardised if kind == "standardised" else nn.Conv2d
    layers = [make(3, 8, 3), nn.ReLU(), make(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    if kind == "weight norm":
        layers[2] = weight_norm(layers[2])
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("kind", ["standardised", "weight norm"])
def test_input_channels_of_a_computed_weight_can_go(kind: str) -> None:
    original = network(kind)
    graph = build_unit_graph(original, EXAMPLE)
    assert sorted(group.size for group in graph.groups) == [6, 8]
    with torch.no_grad():
        torch.testing.assert_close(graph.module(*EXAMPLE), original(*EXAMPLE))
    removed = random_removal(graph, seed=0, share=0.5)
    shrunk = remove_units(graph, removed).module
    assert prove(graph, shrunk, removed).passed
    folded = [name for name, _ in shrunk.named_parameters() if name.endswith("_folded")]
    assert folded
    assert all(name.removesuffix("_folded") not in dict(shrunk.named_parameters())
               for name in folded)  # fmt: skip


def test_a_rearranged_weight_stays_a_parameter_of_its_own_name() -> None:
    class Rearranged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.weight = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 4))

        def forward(self, x):
            return nn.functional.linear(self.first(x).mean((2, 3)), self.weight.t())

    graph = build_unit_graph(Rearranged().eval(), EXAMPLE)
    assert set(dict(graph.module.named_parameters())) == {"first.weight", "first.bias", "weight"}
    assert [group.size for group in graph.groups] == [8]
