"""Sizes that the data decide, and numbers of groups that count with the batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import relative_error
from tests.random_networks import randomise
from tests.surgery.exactness import shrink_exactly

REASON = "the data decide how many rows there are"


class Body(nn.Module):
    """Three convolutions; what follows is added by each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.c, self.head = nn.Conv2d(6, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> object:
        return self.after(self.c(self.b(self.a(x).relu()).relu()))

    def after(self, y: Tensor) -> object:
        raise NotImplementedError


class KeyPoints(Body):
    def after(self, y: Tensor) -> object:
        scores = self.head(y.mean((2, 3)))
        return scores, (scores > 0).nonzero()


class Chosen(Body):
    def after(self, y: Tensor) -> object:
        rows = y.permute(0, 2, 3, 1).reshape(-1, 8)
        chosen = rows[rows.sum(1) > 0]
        return self.head(y.mean((2, 3))), self.head(chosen)


class Added(Body):
    def after(self, y: Tensor) -> object:
        rows = y.permute(0, 2, 3, 1).reshape(-1, 8)
        places = torch.where(rows.mean(1) > 0)[0]
        rows = rows.index_add(0, places, rows[places].relu())
        return self.head(rows.reshape(y.shape[0], -1, 8).mean(1))


class Put(Body):
    def after(self, y: Tensor) -> object:
        rows = y.permute(0, 2, 3, 1).reshape(-1, 8)
        mask = rows.mean(1) > 0
        rows[mask] = rows[mask] * 2
        return self.head(rows.reshape(y.shape[0], -1, 8).mean(1))


class Unique(Body):
    def after(self, y: Tensor) -> object:
        return self.head(y.mean((2, 3))), y.argmax(1).unique()


@pytest.mark.parametrize("kind", [KeyPoints, Chosen, Added, Put, Unique])
def test_what_a_size_from_the_data_touches_stays_and_the_rest_goes(kind: type[Body]) -> None:
    network = kind()
    shrunk = shrink_exactly(_OnlyScores(network), torch.zeros(2, 3, 6, 6))
    graph = build_unit_graph(randomise(kind(), 1), (torch.zeros(2, 3, 6, 6),))
    named = [freeze for freeze in graph.freezes if freeze.reason == REASON]
    assert named
    assert not any(freeze.is_unknown_op for freeze in named)
    assert all("test_sizes_from_data.py" in freeze.source_line for freeze in named)
    assert {group.name.removeprefix("body.") for group in shrunk.graph.groups} >= {"a", "b"}


class _OnlyScores(nn.Module):
    """The first output, which depends on the others only if the network says so."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        scores = found[0] if isinstance(found, tuple) else found
        assert isinstance(scores, Tensor)
        return scores


class PerImage(nn.Module):
    """A convolution whose weights are mixed for each image, which is folded into the channels."""

    def __init__(self, into: int, out: int, size: int, groups: int = 1) -> None:
        super().__init__()
        self.shape, self.groups = (out, into // groups, size, size), groups
        self.weight = nn.Parameter(torch.randn(3, out * (into // groups) * size * size))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = (shares @ self.weight).view(n * self.shape[0], *self.shape[1:])
        y = nn.functional.conv2d(
            x.reshape(1, n * c, h, w), weight, None, 1, self.shape[2] // 2, 1, self.groups * n
        )
        return y.permute(1, 0, 2, 3).view(n, self.shape[0], h, w)


class Mixed(nn.Module):
    """An inverted residual of such convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 3)
        self.expand, self.expand_norm = PerImage(6, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.depth_norm = PerImage(12, 12, 3, groups=12), nn.BatchNorm2d(12)
        self.project, self.head = PerImage(12, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shares = self.router(x.mean((2, 3))).sigmoid()
        y = self.expand_norm(self.expand(x, shares)).relu()
        y = self.depth_norm(self.depth(y, shares)).relu()
        return self.head((x + self.project(y, shares)).mean((2, 3)))


def test_weights_of_each_image_lose_channels_at_any_batch() -> None:
    network = Mixed()
    shrunk = shrink_exactly(network, torch.zeros(2, 3, 6, 6))
    sizes = {group.name: group.size for group in shrunk.graph.groups}
    assert sizes["expand"] == 12
    assert shrunk.module.get_parameter("expand.weight").shape[1] == 6 * 6
    eager = copy.deepcopy(network)
    gone = {g.name: torch.from_numpy(shrunk.removed[g.units]) for g in shrunk.graph.groups}
    with torch.no_grad():
        for layer in (eager.expand, eager.depth, eager.project):
            layer.weight[gone["router"]] = 0.0
        eager.project.weight.view(3, 6, 12)[:, :, gone["expand"]] = 0.0
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            assert relative_error(shrunk.module(x), eager(x)) < 1e-5
