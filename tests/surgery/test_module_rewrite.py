"""The user's own class comes back: sizes are found wherever they are held, and checked."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fairdeploy.graph.capture.train_mode import SwitchableGraph
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.surgery.own_networks import (
    EXAMPLE,
    Attention,
    AttentionNetwork,
    BareParameters,
    CachedBias,
    MaskedNetwork,
    SplitNetwork,
    Trainable,
    halved,
)

BATCH = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"attention by {spelling}": functools.partial(AttentionNetwork, spelling)
        for spelling in ("attributes", "object", "dict", "input width")
    },
    "split": SplitNetwork,
    "bare parameters": BareParameters,
    "cached bias": CachedBias,
    "masked": MaskedNetwork,
    "trainable": Trainable,
}


def rebuilt(network: nn.Module, seed: int = 0) -> tuple[Any, nn.Module]:
    """The network's own class without half of its units, and the proved graph module."""
    graph, _, shrunk = halved(network, seed)
    own, reason = rebuild_own_class(network, graph, shrunk)
    assert own is not None, reason
    assert type(own) is type(network)
    return own, shrunk


@pytest.mark.parametrize("name", NETWORKS)
def test_own_class_computes_the_same_at_another_batch_size(name: str) -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(NETWORKS[name]())
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))


@pytest.mark.parametrize("name", NETWORKS)
def test_own_class_is_a_clean_module(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    own, _ = rebuilt(network)
    assert own.state_dict().keys() == network.state_dict().keys()
    file = io.BytesIO()
    torch.save(own, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    other = copy.deepcopy(own)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(other(BATCH), own(BATCH))
        other.load_state_dict(own.state_dict())
        assert torch.equal(loaded(BATCH), own(BATCH))
        assert torch.equal(other.eval()(BATCH), own(BATCH))
        own.train()(BATCH)


@pytest.mark.parametrize("spelling", ["attributes", "object", "dict"])
def test_heads_are_patched_and_the_scale_stays(spelling: str) -> None:
    torch.manual_seed(0)
    own, _ = rebuilt(AttentionNetwork(spelling))
    attention = own.attention
    assert type(attention) is Attention
    heads = {
        "attributes": lambda: attention.heads,
        "object": lambda: attention.sizes.heads,
        "dict": lambda: attention.options["shape"]["heads"],
    }[spelling]()
    assert heads == 2
    assert attention.scale == 2**-0.5
    assert (attention.qkv.out_features, attention.proj.in_features) == (12, 4)


def test_number_that_coincides_with_another_is_found_by_trial() -> None:
    torch.manual_seed(0)
    # four heads of four: the number 4 stays in one place and becomes 2 in another
    own, shrunk = rebuilt(AttentionNetwork("attributes", dim=16, heads=4, head_dim=4))
    assert (own.attention.heads, own.attention.head_dim, own.attention.inner) == (2, 4, 8)
    assert graph_parts(own) == ()
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))


def test_module_that_reads_its_width_off_its_input_becomes_a_part_of_the_graph() -> None:
    torch.manual_seed(0)
    own, _ = rebuilt(AttentionNetwork("input width"))
    assert graph_parts(own) == ("attention",)
    assert isinstance(own.attention, SwitchableGraph)
    assert type(own.patches) is nn.Conv2d
    own(BATCH).square().sum().backward()
    gradient = own.get_parameter("attention.qkv.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_part_of_the_graph_keeps_writes_and_attributes_in_copies_too() -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(MaskedNetwork())
    assert graph_parts(own) == ("mixer",)
    again = copy.deepcopy(own)
    assert again.mixer.share == 2
    with torch.no_grad():
        torch.testing.assert_close(again(BATCH), shrunk(BATCH))
        entries = torch.randn(1, 4, 8)
        silent = again.mixer(entries)[0, 0]
    torch.testing.assert_close(silent, again.mixer.narrow.bias.detach())


def test_split_sizes_in_a_list_follow_each_piece() -> None:
    torch.manual_seed(0)
    own, _ = rebuilt(SplitNetwork())
    assert own.pieces == [branch.weight.shape[1] for branch in own.branches] == [2, 2, 2]


def test_tensors_outside_the_state_dict_are_sliced_with_their_units() -> None:
    torch.manual_seed(0)
    network = BareParameters()
    own, _ = rebuilt(network)
    kept = [
        int((network.first.weight.flatten(1) == row).all(1).nonzero())
        for row in own.first.weight.flatten(1)
    ]
    assert own.offset.flatten().tolist() == [float(index) for index in kept]
    assert own.listed[0].flatten().tolist() == [float(index + 1) for index in kept]
    assert network.offset.numel() == 6


def test_cached_tensor_is_computed_anew_from_the_sliced_table() -> None:
    torch.manual_seed(0)
    network = CachedBias().eval()
    with torch.no_grad():
        before = network(BATCH)
    cached = network.cache["bias"]
    own, _ = rebuilt(network)
    assert network.cache["bias"] is cached, "the user's cache must be as it was"
    assert own.cache == {}
    assert own.table.shape[0] == own.first.out_channels == 3
    with torch.no_grad():
        assert torch.equal(network(BATCH), before)
        evaluated = own(BATCH)
        torch.testing.assert_close(own.train()(BATCH), evaluated)


def test_size_that_only_a_closure_holds_is_refused_with_a_reason() -> None:
    class Closure(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, width, 1), nn.Conv2d(width, 5, 1)
            self.shape = lambda y: y.reshape(-1, width, 8, 8)

        def forward(self, x):
            return self.second(self.shape(self.first(x))).mean((2, 3))

    torch.manual_seed(0)
    network = Closure(6).eval()
    graph, _, shrunk = halved(network)
    own, reason = rebuild_own_class(network, graph, shrunk)
    assert own is None
    assert "its forward fails with the new sizes" in reason
    assert network(EXAMPLE[0]).shape == (2, 5)
