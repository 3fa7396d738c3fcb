"""Costs agree with independent counts, before and after removal."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records.method import AttentionOption
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import IMAGE, RandomNetwork, networks, randomise
from tests.surgery.exactness import random_removal

EXAMPLE = (torch.zeros(2, *IMAGE),)


def cost(graph: UnitGraph, metric: str, kept: list[int]) -> float:
    """Plain evaluation of the terms, one by one."""
    return sum(
        term.coefficient
        * math.prod(fixed + sum(m * kept[g] for g, m in pairs) for fixed, pairs in term.dims)
        for term in graph.cost_terms[metric]
    )


def counted_macs(module: nn.Module, examples: tuple[Tensor, ...] = EXAMPLE) -> float:
    """Half of the FLOPs that torch counts for one image, recurrent layers step by step."""
    in_steps = torch.backends.mkldnn.flags(enabled=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), in_steps:
        module(*(example[:1] for example in examples))
    return counter.get_total_flops() / 2


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    network=networks(max_inputs=2),
    seed=st.integers(0, 1000),
    share=st.floats(0.0, 0.8),
    attention=st.sampled_from(["heads", "channels", "both"]),
)
def test_costs_equal_what_the_shrunk_network_really_has(
    network: RandomNetwork, seed: int, share: float, attention: AttentionOption
) -> None:
    graph = build_unit_graph(network, network.examples(), attention=attention)
    removed = random_removal(graph, seed, share)
    shrunk = remove_units(graph, removed).module
    kept = [int((~removed[group.blocks[0]]).sum()) for group in graph.groups]
    tensors = [*shrunk.parameters(), *shrunk.buffers()]
    assert cost(graph, "params", kept) == pytest.approx(sum(p.numel() for p in shrunk.parameters()))
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert cost(graph, "size", kept) == pytest.approx(num_bytes)
    macs = counted_macs(shrunk, network.examples())
    assert cost(graph, "macs", kept) == pytest.approx(macs)


def test_macs_of_a_known_network_are_right() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5)).eval()
    graph = build_unit_graph(network, EXAMPLE)
    assert cost(graph, "macs", [4]) == 8 * 8 * 4 * 3 * 9 + 256 * 5
    assert cost(graph, "params", [2]) == 2 * 27 + 2 + 128 * 5 + 5


def test_attention_macs_are_counted_as_torch_counts_them() -> None:
    network = randomise(RandomNetwork(("attention",), (4,), flatten=False), seed=0)
    graph = build_unit_graph(network, EXAMPLE)
    kept = [group.size for group in graph.groups]
    assert cost(graph, "macs", kept) == counted_macs(network)


class Tied(nn.Module):
    """Two layers that share their weight, and a third that is prunable."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.hidden, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.second(self.first(x.flatten(1)).relu())).relu())


def test_weights_that_several_names_share_are_counted_once() -> None:
    graph = build_unit_graph(Tied().eval(), (torch.zeros(2, 3, 2, 2),))
    numbers = sum(parameter.numel() for parameter in Tied().parameters())
    kept = [group.size for group in graph.groups]
    assert numbers == 12 * 12 + 12 + 12 + 12 * 8 + 8 + 8 * 3 + 3
    assert cost(graph, "params", kept) == numbers
    assert cost(graph, "size", kept) == 4 * numbers
