"""Where units are measured."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.graph.layers import ScorePoint, score_points
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring.unit_scores import score_units


def measured_ops(graph: UnitGraph) -> list[tuple[str, str]]:
    """Layer and measured operator of each point."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    return [
        (op_name(nodes[point.layer]), op_name(nodes[point.node])) for point in score_points(graph)
    ]


def test_points_lie_after_norm_and_activation_and_before_an_addition(
    tiny_graph: UnitGraph,
) -> None:
    assert measured_ops(tiny_graph) == [
        ("conv2d", "relu"),  # the stem, through batch norm
        ("conv2d", "relu"),  # inner
        ("conv2d", "conv2d"),  # outer, which the shortcut joins
        ("linear", "tanh"),  # hidden; the head has no units
    ]


def test_points_name_the_units_of_the_channels_in_order(tiny_graph: UnitGraph) -> None:
    stem, inner, outer, hidden = score_points(tiny_graph)
    trunk = next(group for group in tiny_graph.groups if group.name == "trunk")
    assert stem.units.tolist() == outer.units.tolist() == trunk.units.tolist()
    assert stem.positions.tolist() == [[channel] for channel in range(6)]
    assert (stem.channel_dim, hidden.channel_dim, inner.num_channels) == (1, 1, 5)


class Attention(nn.Module):
    """One head-wise attention block on tokens, [N, 6, 3] in, [N, 2] out."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(3, 3 * 4 * 5)
        self.back = nn.Linear(4 * 5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        parts = self.query_key_value(x).reshape(-1, 6, 3, 4, 5).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.back(mixed.transpose(1, 2).reshape(-1, 6, 20))
        out: Tensor = self.head(x.mean(1))
        return out


def test_a_head_is_measured_with_all_its_query_key_and_value_channels() -> None:
    graph = build_unit_graph(Attention().eval(), (torch.zeros(2, 6, 3),))
    heads = [point for point in score_points(graph) if point.positions.shape[1] > 1]
    assert [point.positions.shape for point in heads] == [(4, 15)]
    (point,) = heads
    assert isinstance(point, ScorePoint)
    assert point.positions[1].tolist() == [*range(5, 10), *range(25, 30), *range(45, 50)]
    assert (point.batch.dim, point.channel_dim) == (0, 2)


class Reader(nn.Module):
    """Two recurrent layers, both ways, over [N, 6, 3]; [N, 2] out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(3, 4, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        out: Tensor = self.head(self.layer(x)[0][:, -1])
        return out


def test_units_of_a_recurrent_layer_are_measured_at_its_output() -> None:
    graph = build_unit_graph(Reader().eval(), (torch.zeros(2, 6, 3),))
    (point,) = score_points(graph)
    (group,) = graph.groups
    assert point.units.tolist() == group.blocks[2:].reshape(-1).tolist()
    assert (point.batch.dim, point.channel_dim, point.num_channels) == (0, 2, 8)


def test_scores_of_a_recurrent_layer_are_finite_and_tell_units_apart() -> None:
    torch.manual_seed(0)
    graph = build_unit_graph(Reader().eval(), (torch.zeros(2, 6, 3),))
    images = ImageSet(torch.randn(12, 6, 3), torch.arange(12) % 2, "given")
    scores = score_units(graph, images, seed=0)
    assert scores.num_unmeasured == 8
    assert np.isfinite(scores.u).all()
    assert len(np.unique(scores.r[scores.r > 0])) == 16
