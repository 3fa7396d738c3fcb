"""Signals of outputs, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.batch_dimension import BatchDimension
from fairdeploy.graph.layers import ScorePoint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet, SignalName
from fairdeploy.scoring import collector, measure_signals
from fairdeploy.scoring.activations import MAX_RANKED_IMAGES, ChannelMeans, MapRanks, magnitudes


class Colours(nn.Module):
    """Each channel shows one colour, through a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        out: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return out


IMAGES = torch.tensor(
    [
        [[[1.0, 2.0], [3.0, -4.0]], [[0.0, 0.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]]],
        [[[-1.0, -1.0], [-1.0, -1.0]], [[2.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]]],
    ]
)


@pytest.fixture
def graph() -> UnitGraph:
    return build_unit_graph(Colours().eval(), (torch.zeros(2, 3, 2, 2),))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        # Sums over both images, of eight values each.
        ("activation-mean", [6 / 8, 2 / 8, 13 / 8]),
        # Values above 0: 1 - APoZ.
        ("apoz", [3 / 8, 1 / 8, 8 / 8]),
        # Ranks 2 and 0, 0 and 1, 1 and 1.
        ("hrank", [1.0, 0.5, 1.0]),
    ],
)
def test_signal_is_the_mean_over_images_as_a_share_of_the_layer_s(
    graph: UnitGraph, name: SignalName, plain: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.array(plain) / np.mean(plain)
    images = ImageSet(IMAGES, torch.tensor([0, 1]), "given")
    for batch in (2, 1):
        monkeypatch.setattr(collector, "MAX_BATCH", batch)
        found = measure_signals(graph, images, [name], seed=0).by_name[name]
        np.testing.assert_allclose(found.values, expected, rtol=1e-6)
        assert found.is_measured.all()


def test_the_last_batch_may_be_smaller(graph: UnitGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_BATCH", 2)
    three = torch.cat([IMAGES, IMAGES[:1]])
    found = measure_signals(graph, ImageSet(three, None, "none"), ["apoz"], seed=0)
    # 3 + 0 + 3, 0 + 1 + 0 and 4 + 4 + 4 of twelve values are above 0.
    plain = np.array([6, 1, 12]) / 12
    np.testing.assert_allclose(found.by_name["apoz"].values, plain / plain.mean())


def point(channel_dim: int, positions: list[list[int]], num_channels: int) -> ScorePoint:
    return ScorePoint(
        layer="layer", node="layer", channel_dim=channel_dim, batch=BatchDimension(0),
        units=np.arange(len(positions)), positions=np.array(positions), num_channels=num_channels,
    )  # fmt: skip


def read(reader: ChannelMeans | MapRanks, value: Tensor, used: int | None = None) -> list[float]:
    """What one batch of a value says of its units."""
    reader.add(0, value, 0, len(value), len(value) if used is None else used)
    ((_, found),) = reader.readings()
    return [float(number) for number in found]


def test_a_batch_that_was_filled_up_counts_its_own_images_only() -> None:
    value = torch.tensor([1.0, 3.0, 1000.0]).reshape(3, 1, 1)
    assert read(ChannelMeans([point(1, [[0]], 1)], magnitudes), value, used=2) == [2.0]
    ranks = MapRanks([point(1, [[0]], 1)], num_images=2)
    assert read(ranks, torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1), used=2) == [0.5]


def test_outputs_below_zero_do_not_cancel_those_above() -> None:
    value = torch.tensor([[[-1.0, 1.0], [2.0, 2.0]]])
    assert read(ChannelMeans([point(1, [[0], [1]], 2)], magnitudes), value) == [1.0, 2.0]


def test_a_unit_of_several_channels_has_their_mean() -> None:
    value = torch.tensor([[[1.0], [2.0], [3.0], [6.0]]])
    means = ChannelMeans([point(1, [[0, 2], [1, 3]], 4)], magnitudes)
    assert read(means, value) == [2.0, 4.0]
    maps = torch.zeros(1, 4, 2, 2)
    maps[0, 0] = torch.eye(2)  # rank 2
    maps[0, 3, 0, 0] = 1.0  # rank 1
    assert read(MapRanks([point(1, [[0, 2], [1, 3]], 4)], 1), maps) == [1.0, 0.5]


def test_the_map_of_a_head_is_tokens_by_channels() -> None:
    value = torch.zeros(1, 3, 4)
    value[0, 0, 0], value[0, 1, 1] = 1.0, 1.0  # the first head: rank 2
    value[0, :, 2:] = 5.0  # the second head: rank 1
    assert read(MapRanks([point(2, [[0, 1], [2, 3]], 4)], 1), value) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [
        ([1.0, 0.0, 0.0, 1.0], 2.0),
        ([9.0, 1.0, 0.0, 0.0, 1.0], 2.0),  # a class token before a square
        ([1.0, 1.0, 1.0, 1.0], 1.0),
        ([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], 2.0),  # no square: two rows of four
        ([1.0, 2.0], 1.0),
        ([0.0], 0.0),
    ],
)
def test_tokens_of_a_neuron_are_put_back_into_their_grid(tokens: list[float], rank: float) -> None:
    value = torch.tensor(tokens).reshape(1, -1, 1)
    assert read(MapRanks([point(2, [[0]], 1)], 1), value) == [rank]


def test_maps_with_channels_last_have_the_same_rank() -> None:
    value = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    value[:, 1] = 1.0
    first = read(MapRanks([point(1, [[0], [1], [2]], 3)], 2), value)
    last = read(MapRanks([point(3, [[0], [1], [2]], 3)], 2), value.permute(0, 2, 3, 1))
    assert first == last == [4.0, 1.0, 4.0]


def test_a_map_that_is_not_finite_has_no_rank() -> None:
    value = torch.eye(2)[None, None].repeat(1, 2, 1, 1)
    value[0, 0, 0, 0] = torch.nan
    assert read(MapRanks([point(1, [[0], [1]], 2)], 1), value) == [0.0, 2.0]


def test_ranks_are_taken_of_images_spread_over_all_of_them() -> None:
    num_images = 4 * MAX_RANKED_IMAGES
    value = torch.zeros(num_images, 1, 1, 1)
    value[num_images // 2 :] = 1.0  # a share of one half, wherever the chosen ones lie
    assert read(MapRanks([point(1, [[0]], 1)], num_images), value) == [0.5]
