"""The user's own class where sizes or weights come from elsewhere than the module's own slots."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD

from fairdeploy.graph.capture.train_mode import SwitchableGraph
from fairdeploy.surgery.optimizer_state import kept_masks, sliced_optimizer
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from tests.graph.test_weight_folding import Standardised
from tests.surgery.own_networks import halved

BATCH = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Folded(nn.Module):
    """Layers that compute their weights at every call."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        make = Standardised if kind == "standardised" else nn.Conv2d
        self.first, self.second, self.last = make(3, 8, 3), make(8, 6, 3), nn.Conv2d(6, 2, 1)
        if kind == "weight norm":
            self.second = weight_norm(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        return self.last(self.second(self.first(x).relu()).relu()).mean((2, 3))


class Bias(nn.Module):
    """A table that is called by another name than forward."""

    def __init__(self, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.shape = heads, (length, length, heads)
        self.table = nn.Linear(1, heads)
        self.register_buffer("places", torch.linspace(0, 1, length * length)[:, None])

    def bias(self) -> Tensor:
        """[1, heads, length, length]."""
        flat = self.table(self.places).view(-1, self.heads)
        return flat.view(self.shape).permute(2, 0, 1)[None]


class Block(nn.Module):
    """Attention with a bias that it is given."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(8, 3 * 2 * heads), nn.Linear(2 * heads, 8)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[N, L, 8] to the same."""
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * 0.7 + bias).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, length, self.heads * 2))


class SharedBias(nn.Module):
    """One bias for all blocks, from a module that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.bias = nn.Conv2d(3, 8, 4, 4), Bias(6, 4)
        self.blocks = nn.ModuleList(Block(6) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        y, bias = self.norm(self.patches(x).flatten(2).transpose(1, 2)), self.bias.bias()
        for block in self.blocks:
            y = y + block(y, bias)
        return self.head(y.mean(1))


class Update(nn.Module):
    """Knows how wide its state is."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.state_width = width
        self.mix = nn.Conv2d(width + context, width, 1)

    def forward(self, state: Tensor, context: Tensor) -> Tensor:
        """The next state."""
        return state + self.mix(torch.cat([state, context], 1)).tanh()


class ReadsWidthOfAnother(nn.Module):
    """Splits by an attribute of a module that it calls later."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.update, self.head = nn.Conv2d(3, 14, 1), Update(6, 8), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        y, width = self.encoder(x), self.update.state_width
        state, context = torch.split(y, [width, y.shape[1] - width], 1)
        return self.head(self.update(state, context.relu())).mean((2, 3))


class Encoder(nn.Module):
    """Features whose products are compared."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 10, 1), nn.Conv2d(10, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W]."""
        return self.second(self.first(x).relu())


class Correlation(nn.Module):
    """Divides a product of features by the root of how many channels these have."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(12), nn.Linear(64, 5)
        self.more = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        features = self.encoder(x).flatten(2)
        corr = features.transpose(1, 2) @ features / torch.sqrt(torch.tensor(features.shape[1]))
        y = corr.mean(1)
        return self.head(y + self.more(y))


class Flow(nn.Module):
    """Reads a width off one module and divides by the channels of another's result."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.context = Encoder(12), nn.Conv2d(3, 14, 1)
        self.update, self.head = Update(6, 8), nn.Linear(64 + 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        features, y, width = self.features(x).flatten(2), self.context(x), self.update.state_width
        corr = features.transpose(1, 2) @ features / torch.sqrt(torch.tensor(features.shape[1]))
        state, context = torch.split(y, [width, y.shape[1] - width], 1)
        state = self.update(state, context.relu()).mean((2, 3))
        return self.head(torch.cat([corr.mean(1), state], 1))


def rebuilt(network: nn.Module) -> tuple[Any, nn.Module]:
    """The network's own class without half of its units, and the proved graph module."""
    graph, _, shrunk = halved(network)
    own, reason = rebuild_own_class(network, graph, shrunk)
    assert own is not None, reason
    assert type(own) is type(network)
    return own, shrunk


@pytest.mark.parametrize("kind", ["standardised", "weight norm"])
def test_layer_with_a_computed_weight_comes_back_as_a_piece_with_the_weight_in_it(
    kind: str,
) -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(Folded(kind))
    expected = ("first", "second") if kind == "standardised" else ("second",)
    assert graph_parts(own) == expected
    assert isinstance(own.second, SwitchableGraph)
    names = {name for name, _ in shrunk.named_parameters()}
    assert {name for name, _ in own.named_parameters()} == names
    assert any(name.endswith("_folded") for name in names)
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))
        own.load_state_dict(shrunk.state_dict())
    file = io.BytesIO()
    torch.save(own, file)
    file.seek(0)
    again = copy.deepcopy(torch.load(file, weights_only=False))
    with torch.no_grad():
        assert torch.equal(again(BATCH), own(BATCH))


def test_computed_weight_is_held_ready_made_although_nothing_of_it_has_gone() -> None:
    torch.manual_seed(0)
    network = Folded("weight norm").eval()
    graph, removed, _ = halved(network)
    whole = remove_units(graph, np.zeros_like(removed)).module
    own, reason = rebuild_own_class(network, graph, whole)
    assert own is not None, reason
    assert own.get_parameter("second.parametrizations.weight.original1_folded") is not None


def test_optimizer_goes_on_with_the_weight_that_was_computed() -> None:
    torch.manual_seed(0)
    network = Folded("standardised").eval()
    graph, removed, shrunk = halved(network)
    optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(BATCH).square().sum().backward()
    optimizer.step()
    small = sliced_optimizer(optimizer, network, shrunk, kept_masks(graph, removed))
    held = {id(parameter) for group in small.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in shrunk.parameters()}
    folded = shrunk.get_parameter("second.weight_folded")
    assert folded not in small.state
    assert "momentum_buffer" in small.state[shrunk.get_parameter("last.weight")]
    shrunk(BATCH).square().sum().backward()
    before = folded.detach().clone()
    small.step()
    assert not torch.equal(folded.detach(), before)


def test_sizes_of_a_module_that_is_only_asked_for_a_bias_are_found() -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(SharedBias())
    assert (own.bias.heads, own.bias.shape) == (3, (4, 4, 3))
    assert [block.heads for block in own.blocks] == [3, 3]
    assert graph_parts(own) == ()
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))


def test_width_that_another_module_holds_is_found() -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(ReadsWidthOfAnother())
    assert own.update.state_width == own.update.mix.out_channels == 3
    assert graph_parts(own) == ()
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))


def test_factor_that_the_network_computes_from_a_length_is_taken_back() -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(Correlation())
    assert graph_parts(own) == ("encoder",)
    assert type(own.more) is nn.Sequential
    assert {name for name, _ in own.named_parameters()} == {
        name for name, _ in shrunk.named_parameters()
    }
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))
        # six of twelve channels are left, and the features are multiplied with themselves
        torch.testing.assert_close(
            own.encoder(BATCH) * 2**0.25, _features(own, BATCH), rtol=1e-5, atol=1e-6
        )


def test_width_of_another_module_and_a_factor_are_found_together() -> None:
    torch.manual_seed(0)
    own, shrunk = rebuilt(Flow())
    assert own.update.state_width == 3
    assert graph_parts(own) == ("features",)
    with torch.no_grad():
        torch.testing.assert_close(own(BATCH), shrunk(BATCH))


def _features(own: Any, images: Tensor) -> Tensor:
    """What the encoder's weights give without the factor."""
    first, second = own.get_submodule("encoder.first"), own.get_submodule("encoder.second")
    y = torch.conv2d(images, first.weight, first.bias).relu()
    return torch.conv2d(y, second.weight, second.bias)
