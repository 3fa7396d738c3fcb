"""Writes into part of a value: what every other view of the same memory reads afterwards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import relative_error
from tests.random_networks import randomise
from tests.surgery.exactness import shrink_exactly

VIEWS = ("front", "back", "step", "row", "last", "half", "flat", "turned", "pixel", "wide", "whole")
WRITES = ("relu", "fill", "zero", "copy", "scalar", "add", "mask", "places", "mul")


def view_of(kind: str, x: Tensor) -> Tensor:
    """A view of ``x``, which has four channels or more."""
    if kind in {"front", "back", "step"}:
        return {"front": x[:, :3], "back": x[:, 2:], "step": x[:, ::2]}[kind]
    if kind in {"row", "last", "whole"}:
        return {"row": x[:, 1], "last": x[..., -1], "whole": x[:]}[kind]
    if kind == "half":
        return x.chunk(2, dim=1)[1]
    if kind == "flat":
        return x.flatten(2)
    if kind == "turned":
        return x.permute(0, 2, 3, 1) if x.dim() == 4 else x.transpose(1, -1)
    return x.narrow(-1, 1, 1) if kind == "pixel" else x[:, None]


def write(kind: str, view: Tensor, source: Tensor) -> None:
    """Write something into ``view``."""
    if kind == "relu":
        torch.relu_(view)
    elif kind == "fill":
        view.fill_(0.5)
    elif kind == "zero":
        view.zero_()
    elif kind == "copy":
        view.copy_(view.flip(-1) + 1)
    elif kind == "scalar":
        view[...] = source.mean()
    elif kind == "add":
        view += 2
    elif kind == "mask":
        view[view > 0.3] = 0.25
    elif kind == "places":
        view[:, [0, -1]] = -1.0
    else:
        view.mul_(view)


class Writer(nn.Module):
    """Takes views of one value, then writes and reads in any order."""

    def __init__(self, kinds: list[str], steps: list[tuple[int, str, str]]) -> None:
        super().__init__()
        self.kinds, self.steps = kinds, steps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        base = x * 1.5
        views = [base]
        for number, kind in enumerate(self.kinds):
            source = views[number // 2]
            if source.dim() > 2 and source.shape[1] > 3 and source.shape[-1] > 1:
                views.append(view_of(kind, source))
        for number, kind, late in self.steps:
            write(kind, views[number % len(views)], x)
            views.append(view_of(late, base))
        return tuple(view + 1 for view in views)


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.sampled_from(VIEWS), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(WRITES), st.sampled_from(VIEWS)),
        min_size=1,
        max_size=4,
    ),
)
def test_reads_after_any_writes_give_what_eager_execution_gives(
    kinds: list[str], steps: list[tuple[int, str, str]]
) -> None:
    network = Writer(kinds, steps).eval()
    captured = capture(network, (torch.zeros(2, 6, 4, 4),)).module
    names = {op_name(node) for node in captured.graph.nodes if node.op == "call_function"}
    assert not {name for name in names if name.endswith("_") and not name.startswith("_")}
    for batch in (2, 3):
        x = torch.randn(batch, 6, 4, 4, generator=torch.Generator().manual_seed(batch))
        for ours, theirs in zip(captured(x), network(x), strict=True):
            assert torch.equal(ours, theirs)


class PartialConv(nn.Module):
    """Convolves the first channels in place, as PLKSR and FasterNet do."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width, self.conv = width, nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x[:, : self.width] = self.conv(x[:, : self.width])
        return x


class FilledMask(nn.Module):
    """Keeps a border out by a mask that it fills in place."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        mask[:, :, 1:-1, 1:-1] = 1
        mask[:, :, 2, 2] = 0.5
        return x * mask


class Decoder(nn.Module):
    """Writes offsets and sizes of boxes into the tensor that it got, as YOLO's decoders do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 10, 1)
        self.register_buffer("grid", torch.arange(8.0).expand(1, 2, 8, 8).clone())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 0:2] = (y[:, 0:2].sigmoid() * 2 + self.grid) * 4
        y[:, 2:4] = y[:, 2:4].exp().clamp(max=20)
        y[:, 4:].sigmoid_()
        return y


class Assembled(nn.Module):
    """Puts halves into a buffer of zeros, and clips what is below a limit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 6, 1), nn.Conv2d(channels, 8, 1)
        self.out = 14

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 14, *x.shape[2:])
        y[:, :6] = self.one(x)
        y[:, 6:] = self.two(x)
        y[y < -1] = -1.0
        return y


class Shifted(nn.Module):
    """Moves some channels by a pixel in place, as shift networks do."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :4, :, 1:] = x[:, :4, :, :-1]
        y[:, 4:] = x[:, 4:]
        return y


class RectifiedHalf(nn.Module):
    """Rectifies one of two pieces in place and reads both, and the whole."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        torch.relu_(one)
        return torch.cat([two, one], dim=1) + x


class Network(nn.Module):
    """A stem of eight channels, one way to write in place, and a head."""

    def __init__(self, part: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.GELU(), nn.Conv2d(12, 8, 1)
        )
        self.part, self.after = part, nn.Conv2d(width, 9, 1)
        self.head = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(self.stem(x) * 1.0)
        return self.head(self.after(y).relu()).mean((2, 3))


PARTS = {
    "partial convolution": lambda: Network(PartialConv(8, 3)),
    "mask filled in place": lambda: Network(FilledMask()),
    "box decoder": lambda: Network(Decoder(8), 10),
    "assembled from halves": lambda: Network(Assembled(8), 14),
    "shifted channels": lambda: Network(Shifted()),
    "rectified half": lambda: Network(RectifiedHalf()),
}


def eager_without(network: nn.Module, graph: UnitGraph, removed: np.ndarray) -> nn.Module:
    """The user's own module whose layers have zeros in place of weights that read removed units."""
    eager = copy.deepcopy(network)
    parameters = dict(eager.named_parameters())
    for group in graph.groups:
        for member in group.members:
            if member.role == "consumes":
                gone = removed[group.units[member.units]]
                places = torch.from_numpy(member.positions[gone].reshape(-1))
                parameters[member.tensor].data.index_fill_(member.dim, places, 0.0)
    return eager


@pytest.mark.parametrize("kind", list(PARTS))
def test_a_network_that_writes_in_place_shrinks_to_what_eager_execution_gives(kind: str) -> None:
    network = PARTS[kind]()
    shrunk = shrink_exactly(network, torch.zeros(2, 3, 8, 8))
    eager = eager_without(network, shrunk.graph, shrunk.removed)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            assert relative_error(shrunk.module(x), eager(x)) < 1e-5
    assert shrunk.removed.sum() >= 10


def test_the_channels_around_a_write_can_go() -> None:
    graph = build_unit_graph(randomise(Network(PartialConv(8, 3)), 1), (torch.zeros(2, 3, 8, 8),))
    assert {group.name for group in graph.groups} >= {"stem.0", "stem.3", "part.conv", "after"}
