"""Sums, means and norms over channels stay exact when channels go; what cannot, freezes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.surgery.exactness import shrink_exactly

IMAGES = torch.zeros(2, 3, 6, 6)


class Around(nn.Module):
    """Two layers with something between them that looks at all 8 channels."""

    def __init__(self, between, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


class GlobalResponseNorm(nn.Module):
    """As in ConvNeXt V2, channels last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.eps = 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        length = x.norm(p=2, dim=(1, 2), keepdim=True)
        share = length / (length.mean(dim=-1, keepdim=True) + self.eps)
        return (x + torch.addcmul(self.bias, self.weight, x * share)).permute(0, 3, 1, 2)


class RootMeanSquare(nn.Module):
    """Written by hand, channels first."""

    def __init__(self, dim: int, way: str = "multiplies") -> None:
        super().__init__()
        self.weight, self.eps, self.way = nn.Parameter(torch.ones(dim)), 0.05, way

    def forward(self, x: Tensor) -> Tensor:
        squares = x.pow(2).mean(1, keepdim=True) + self.eps
        if self.way == "divides last":
            return self.weight.view(1, -1, 1, 1) * x / squares.sqrt()
        y = x / squares.sqrt() if self.way == "divides" else x * torch.rsqrt(squares)
        return y * self.weight.view(1, -1, 1, 1)


EXACT = {
    "sum": lambda y: y * y.sum(1, keepdim=True).sigmoid(),
    "sum without keepdim": lambda y: y * y.sum(1)[:, None],
    "sum of all": lambda y: y * y.sum((1, 2, 3), keepdim=True).tanh(),
    "mean": lambda y: y * y.mean(1, keepdim=True).sigmoid(),
    "mean over channels and space": lambda y: y + y.mean((1, 2), keepdim=True),
    "global response norm": GlobalResponseNorm(8),
    "root mean square by hand": RootMeanSquare(8),
    "unit length": lambda y: F.normalize(y, dim=1),
    "1-norm": lambda y: y / (1 + y.norm(p=1, dim=1, keepdim=True)),
    "einsum over one operand": lambda y: y * torch.einsum("bchw->bhw", y)[:, None].sigmoid(),
    "flattened mean": lambda y: y * y.flatten(1).mean(1)[:, None, None, None],
}


@pytest.mark.parametrize("kind", EXACT)
def test_reduction_over_channels_shrinks_exactly(kind: str) -> None:
    shrunk = shrink_exactly(Around(EXACT[kind]), IMAGES)
    assert shrunk.group_sizes() == {"first": 8}
    assert shrunk.shape("first.weight")[0] == 4


FROZEN = {
    "'amax' mixes": lambda y: y * y.amax(1, keepdim=True),
    "'std' mixes": lambda y: y / (y.std(1, keepdim=True) + 1),
    "'mean' mixes": lambda y: y - y.mean(1, keepdim=True),
    "'logsumexp' mixes": lambda y: y * torch.logsumexp(y, 1, keepdim=True),
    "'prod' mixes": lambda y: y * y.prod(1, keepdim=True),
    "'linalg_vector_norm' mixes": lambda y: y / (1 + y.norm(math.inf, 1, keepdim=True)),
}


@pytest.mark.parametrize("reason", FROZEN)
def test_reduction_that_removal_would_change_freezes_its_channels(reason: str) -> None:
    graph = build_unit_graph(Around(FROZEN[reason]).eval(), (IMAGES,))
    assert graph.num_units == 0
    assert any(reason in group.reason for group in graph.frozen_groups)


def test_mean_of_a_shrunk_network_still_divides_by_the_old_length() -> None:
    network = Around(lambda y: y * y.mean(1, keepdim=True))
    shrunk = shrink_exactly(network, IMAGES)
    kept = ~shrunk.removed
    x = torch.randn(3, 3, 6, 6)
    with torch.no_grad():
        y = network.first(x)[:, kept]
        by_hand = F.conv2d(
            y * y.sum(1, keepdim=True) / 8, network.second.weight[:, kept], network.second.bias
        )
        torch.testing.assert_close(shrunk.module(x), by_hand)


def test_own_class_that_divides_by_the_new_length_is_refused_with_a_reason() -> None:
    network = Around(EXACT["mean"])
    shrunk = shrink_exactly(network, IMAGES)
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is None
    assert "differs by" in reason
    assert "divides by the old number of channels in 'mean' at " in reason
    assert "test_sums_and_norms.py:" in reason


HAND_WRITTEN = {
    "global response norm": lambda: GlobalResponseNorm(8),
    "root mean square": lambda: RootMeanSquare(8),
    "root mean square, divided": lambda: RootMeanSquare(8, "divides"),
    "root mean square, divided last": lambda: RootMeanSquare(8, "divides last"),
}


@pytest.mark.parametrize("kind", HAND_WRITTEN)
def test_norm_written_by_hand_comes_back_in_its_own_class(kind: str) -> None:
    network = Around(HAND_WRITTEN[kind]())
    shrunk = shrink_exactly(network, IMAGES)
    weight = network.between.weight.detach()[~shrunk.removed]
    ratio = 2.0 if kind == "global response norm" else 2.0**0.5
    torch.testing.assert_close(shrunk.module.get_parameter("between.weight"), weight * ratio)
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is not None, reason
    assert own.between.eps == pytest.approx(2 * network.between.eps)


def test_weight_that_two_norms_share_is_left_alone() -> None:
    norm = RootMeanSquare(8)
    network = Around(lambda y: norm(norm(y)))
    network.norm = norm
    shrunk = shrink_exactly(network, IMAGES)
    kept = norm.weight.detach()[~shrunk.removed]
    torch.testing.assert_close(shrunk.module.get_parameter("norm.weight"), kept)


class RootMeanSquareNet(nn.Module):
    """A residual stream under root mean square norms, channels last."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.inner = nn.Linear(5, 8), nn.Linear(8, 6)
        self.outer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.inner(self.norms[0](x)).relu())
        return self.head(self.norms[-1](x))


RMS_NORMS = {
    "weight": [nn.RMSNorm(8), nn.RMSNorm(8, eps=0.1)],
    "no weight": [nn.RMSNorm(8, elementwise_affine=False), nn.RMSNorm(8, eps=0.2)],
    "shared": [nn.RMSNorm(8, eps=0.1)],
}


@pytest.mark.parametrize("kind", RMS_NORMS)
def test_residual_width_of_a_network_with_root_mean_square_norms_goes_exactly(kind: str) -> None:
    shrunk = shrink_exactly(RootMeanSquareNet(RMS_NORMS[kind]), torch.zeros(2, 7, 5))
    assert shrunk.group_sizes() == {"stem": 8, "inner": 6}
    assert shrunk.shape("stem.weight") == (4, 5)


def test_root_mean_square_norm_of_a_shrunk_network_equals_the_one_with_zeros() -> None:
    network = RootMeanSquareNet([nn.RMSNorm(8, eps=0.3), nn.RMSNorm(8)])
    shrunk = shrink_exactly(network, torch.zeros(2, 7, 5))
    stem = next(group for group in shrunk.graph.groups if group.name == "stem")
    kept = ~shrunk.removed[stem.units]
    with torch.no_grad():
        x = torch.randn(4, 7, 8) * torch.from_numpy(kept)
        expected = network.norms[0](x)[..., kept]
        node = next(node for node in shrunk.module.graph.nodes if node.name == "rms_norm")
        weight = shrunk.module.get_parameter("norms.0.weight")
        result = F.rms_norm(x[..., kept], node.args[1], weight, node.args[3])
    torch.testing.assert_close(result, expected)


def test_network_with_root_mean_square_norms_comes_back_in_its_own_class() -> None:
    network = RootMeanSquareNet([nn.RMSNorm(8), nn.RMSNorm(8, eps=0.1)])
    shrunk = shrink_exactly(network, torch.zeros(2, 7, 5))
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert isinstance(own, RootMeanSquareNet), reason
    assert own.norms[1].eps == pytest.approx(0.2)
    assert own.norms[1].normalized_shape == (4,)


class GroupNormed(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 1), nn.GroupNorm(groups, 12)
        self.second = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu())


@pytest.mark.parametrize("groups", [2, 4, 12])
def test_whole_groups_of_a_group_norm_go_exactly(groups: int) -> None:
    network = GroupNormed(groups)
    shrunk = shrink_exactly(network, IMAGES)
    assert shrunk.group_sizes() == {"first": groups}
    assert shrunk.shape("norm.weight") == (6,)
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert isinstance(own, GroupNormed), reason
    assert (own.norm.num_groups, own.norm.num_channels) == (groups // 2, 6)


def test_group_norm_of_one_group_freezes_like_a_layer_norm() -> None:
    graph = build_unit_graph(GroupNormed(1).eval(), (IMAGES,))
    assert graph.num_units == 0
    assert any("a group norm of one group takes" in f.reason for f in graph.frozen_groups)
