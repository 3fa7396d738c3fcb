"""Signals of weights, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import UsageError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.scoring.weights import distances_to_others, l1_norms, l2_norms, weight_signal
from tests.random_networks import RandomNetwork, randomise
from tests.scoring.hand_labelled import hand_labelled
from tests.scoring.test_score_points import Attention, Reader

FILTERS = torch.tensor([[3.0, -4.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)


class ThreeFilters(nn.Module):
    """The filters above, and a batch norm with scales -2, 1 and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(FILTERS[:, :, None, None])
            self.conv.bias.copy_(torch.tensor([100.0, 200.0, 300.0]))
            self.norm.weight.copy_(torch.tensor([-2.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        out: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return out


@pytest.fixture
def graph() -> UnitGraph:
    return build_unit_graph(ThreeFilters().eval(), (torch.zeros(2, 2, 4, 4),))


def test_norms_and_distances_of_single_filters() -> None:
    assert l1_norms(FILTERS).tolist() == [7, 1, 1]
    assert l2_norms(FILTERS).tolist() == [5, 1, 1]
    # Between the filters lie (3, -5), (4, -4) and (1, 1).
    far, middle, near = math.sqrt(34), math.sqrt(32), math.sqrt(2)
    expected = [far + middle, far + near, middle + near]
    np.testing.assert_allclose(distances_to_others(FILTERS).numpy(), expected)


def test_signals_are_shares_of_the_layer_s_mean_and_leave_biases_out(graph: UnitGraph) -> None:
    assert weight_signal(graph, "l1").values.tolist() == [7 / 3, 1 / 3, 1 / 3]
    np.testing.assert_allclose(weight_signal(graph, "l2").values, np.array([5, 1, 1]) / (7 / 3))
    far, middle, near = math.sqrt(34), math.sqrt(32), math.sqrt(2)
    distances = np.array([far + middle, far + near, middle + near])
    np.testing.assert_allclose(weight_signal(graph, "fpgm").values, distances / distances.mean())
    assert weight_signal(graph, "bn-scale").values.tolist() == [2, 1, 0]
    assert weight_signal(graph, "bn-scale").is_measured.all()


def test_coupled_units_are_scored_by_the_mean_over_their_layers(
    tiny_model: nn.Module, tiny_graph: UnitGraph
) -> None:
    norms = [
        tiny_model.get_parameter(name).detach().double().flatten(1).abs().sum(1)
        for name in ("stem.weight", "outer.weight")
    ]
    expected = sum(norm / norm.mean() for norm in norms) / 2
    (trunk,) = (group for group in tiny_graph.groups if group.name == "trunk")
    found = weight_signal(tiny_graph, "l1").values[trunk.units]
    np.testing.assert_allclose(found, expected.numpy())


def test_a_layer_of_large_weights_has_no_more_say_than_another(
    tiny_model: nn.Module, tiny_graph: UnitGraph
) -> None:
    before = weight_signal(tiny_graph, "l2").values
    with torch.no_grad():
        tiny_model.get_parameter("outer.weight").mul_(1000)
    np.testing.assert_allclose(weight_signal(tiny_graph, "l2").values, before, rtol=1e-6)


def test_the_filter_of_a_head_is_all_its_query_key_and_value_rows() -> None:
    model = Attention().eval()
    graph = build_unit_graph(model, (torch.zeros(2, 6, 3),))
    rows = model.query_key_value.weight.detach().double().reshape(3, 4, 5, 3)
    norms = rows.square().sum((0, 2, 3)).sqrt()
    (heads,) = graph.groups
    expected = (norms / norms.mean()).numpy()
    np.testing.assert_allclose(weight_signal(graph, "l2").values[heads.units], expected, rtol=1e-6)


def test_neurons_and_recurrent_units_have_filters_too(tiny_graph: UnitGraph) -> None:
    (hidden,) = (group for group in tiny_graph.groups if group.name == "hidden")
    assert weight_signal(tiny_graph, "fpgm").is_measured[hidden.units].all()
    graph = build_unit_graph(Reader().eval(), (torch.zeros(2, 6, 3),))
    assert weight_signal(graph, "l1").is_measured.all()


def test_every_unit_of_a_mixed_network_has_filters() -> None:
    kinds = ("residual", "dense", "attention", "glu", "transposed", "squeeze", "einsum", "response")
    network = randomise(RandomNetwork(kinds, (4,) * len(kinds), flatten=False), seed=2)
    assert isinstance(network, RandomNetwork)
    graph = build_unit_graph(network, network.examples())
    measured = weight_signal(graph, "l2")
    assert measured.is_measured.all()
    assert np.isfinite(measured.values).all()


def test_scales_of_units_without_a_batch_norm_are_not_measured(tiny_graph: UnitGraph) -> None:
    measured = weight_signal(tiny_graph, "bn-scale")
    by_name = {group.name: measured.is_measured[group.units] for group in tiny_graph.groups}
    assert by_name["trunk"].all()
    assert not by_name["inner"].any()
    assert not by_name["hidden"].any()


def test_a_network_without_batch_norms_refuses_their_scales() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    graph = hand_labelled(model.eval(), torch.zeros(2, 3, 4, 4), {"0.weight": "conv"})
    with pytest.raises(UsageError, match="'bn-scale' reads the scales of batch norms, and no unit"):
        weight_signal(graph, "bn-scale")
