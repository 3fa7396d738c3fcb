"""Which stretches of a network may go as a whole, what they hold, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.graph.residual_branches import blocks_hint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.runs.stages.groups import group_sizes
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import RandomNetwork, networks
from tests.residual_networks import NETWORKS, images, network

NAMES = {
    "option A": [f"layer{stage}.{block}" for stage in (1, 2) for block in range(3)],
    "projected": [f"layer{stage}.{block}" for stage in (1, 2) for block in range(3)],
    "transformer": [f"blocks.{block}.{part}" for block in range(3) for part in ("attn", "mlp")],
    "convnext": [f"blocks.{block}" for block in range(3)],
}


def graph_of(module: nn.Module, *, blocks: bool = True) -> UnitGraph:
    return build_unit_graph(module, (images(2),), blocks=blocks)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_residual_block_is_found_under_the_name_of_its_module(kind: str) -> None:
    graph = graph_of(network(kind))
    assert [branch.name for branch in graph.branches] == NAMES[kind]


@pytest.mark.parametrize("kind", NETWORKS)
def test_first_block_of_each_stream_makes_it(kind: str) -> None:
    first = [branch.name for branch in graph_of(network(kind)).branches if branch.is_first]
    assert first == [
        name for name in NAMES[kind] if name in {"layer1.0", "layer2.0", "blocks.0.attn"}
    ] + (["blocks.0"] if kind == "convnext" else [])


def test_branch_holds_all_tensors_of_its_layers_and_the_counters_of_its_norms() -> None:
    branch = graph_of(network("projected")).branches[3]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(branch.tensors) == {
        "layer2.0.conv1.weight", "layer2.0.conv2.weight",
        *(f"layer2.0.bn{number}.{name}" for number in (1, 2) for name in norm),
    }  # fmt: skip


def test_norm_before_attention_goes_with_it() -> None:
    attention, layers = graph_of(network("transformer")).branches[:2]
    assert {"blocks.0.norm1.weight", "blocks.0.attn.qkv.bias"} <= set(attention.tensors)
    assert {"blocks.0.norm2.weight", "blocks.0.scale", "blocks.0.mlp.0.weight"} <= set(
        layers.tensors
    )


def test_without_the_option_there_are_none_and_groups_are_as_ever() -> None:
    module = network("transformer")
    plain, deep = graph_of(module, blocks=False), graph_of(module)
    assert plain.branches == ()
    assert [group.name for group in deep.groups[: len(plain.groups)]] == [
        group.name for group in plain.groups
    ]
    assert deep.num_units == plain.num_units + len(deep.branches)


def test_numbers_of_pairs_move_up_behind_the_branches() -> None:
    module = network("transformer")
    plain, deep = (
        build_unit_graph(module, (images(2),), attention="both", blocks=blocks)
        for blocks in (False, True)
    )
    assert len(deep.pairs) == len(plain.pairs) > 0
    removed = np.zeros(deep.num_units, dtype=np.bool_)
    removed[plain.pairs[0, 0]] = True  # a head
    for name, dims in plain.tensor_units.items():
        for before, after in zip(dims, deep.tensor_units[name], strict=True):
            stays = plain.staying(removed[: plain.num_units])[before]
            np.testing.assert_array_equal(stays, deep.staying(removed)[after])


class Sums(nn.Module):
    """Sums of all sorts that are no residual blocks, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.randn(1, 4, 8, 8))
        self.mixed = nn.Conv2d(4, 4, 1)
        self.last, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.table  # what is left would not depend on the image
        x = x + 0.04 * x**3  # nothing with weights
        x = x + self.mixed(self.table)  # the same for all images
        x = x + self.last(x)
        return self.head(x.mean((2, 3)) + x.amax((2, 3)).sum(1, keepdim=True))


def test_other_sums_are_no_branches() -> None:
    assert [branch.name for branch in graph_of(Sums().eval()).branches] == ["last"]


class Twins(nn.Module):
    """The sum of two convolutions, either of which could go, but not both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.one = nn.Conv2d(4, 4, 1)
        self.two = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.more = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.more(self.one(x) + self.two(x)).mean((2, 3)))


def test_of_two_operands_the_deeper_may_go_and_the_other_stays() -> None:
    assert [branch.name for branch in graph_of(Twins().eval()).branches] == ["two"]


class Shared(nn.Module):
    """Two blocks with one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.own, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(x)
        x = x + self.own(self.conv(x))
        return self.head(x.mean((2, 3)))


def test_tensors_that_others_read_too_stay() -> None:
    graph = graph_of(Shared().eval())
    assert [branch.tensors for branch in graph.branches] == [("own.weight", "own.bias")]


def test_hint_counts_the_blocks_that_could_go() -> None:
    module = network("option A")
    hint = blocks_hint(graph_of(module, blocks=False))
    assert hint == "let 4 residual blocks go as a whole with --blocks, "
    assert blocks_hint(graph_of(module)) == ""
    plain = RandomNetwork(("plain",), (4,), flatten=False).eval()
    assert blocks_hint(graph_of(plain, blocks=False)) == ""


def actual_costs(graph: UnitGraph, removed: np.ndarray) -> tuple[int, int]:
    """Parameters and bytes of the shrunk network itself."""
    shrunk = remove_units(graph, removed).module
    tensors = [*shrunk.parameters(), *shrunk.buffers()]
    return (
        sum(parameter.numel() for parameter in shrunk.parameters()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 2**16))
def test_costs_are_those_of_the_network_that_is_left(kind: str, seed: int) -> None:
    graph = graph_of(network(kind))
    random = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    kept = group_sizes(graph)
    for index, group in enumerate(graph.groups):
        count = int(random.integers(0, group.most_removed + 1))
        kept[index] -= count
        for block in group.blocks:
            removed[random.permutation(block)[:count]] = True
    costs = CostModel(graph.cost_terms, len(graph.groups)).cost(kept)
    assert (round(costs["params"]), round(costs["size"])) == actual_costs(graph, removed)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(max_blocks=4), st.integers(0, 2**16))
def test_costs_never_rise_when_something_goes(module: RandomNetwork, seed: int) -> None:
    graph = build_unit_graph(module, module.examples(), blocks=True)
    model = CostModel(graph.cost_terms, len(graph.groups))
    random = np.random.default_rng(seed)
    kept = group_sizes(graph)
    before = model.cost(kept)
    least = np.array([group.size - group.most_removed for group in graph.groups])
    for index in random.permutation(np.repeat(np.arange(len(kept)), 2)):
        kept[index] = max(kept[index] - 1, least[index])
        after = model.cost(kept)
        assert all(after[metric] <= before[metric] + 1e-9 for metric in after)
        before = after
