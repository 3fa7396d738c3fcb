"""R-Scores against plain autograd, parameter by parameter."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring import collector, score_units
from fairdeploy.scoring.reconstruction import GradientProducts
from tests.scoring.hand_labelled import hand_labelled
from tests.scoring.tiny_residual import LAYERS, OTHERS, randomised


def backward(model: nn.Module, images: ImageSet) -> None:
    """Give a float64 model the gradients of the mean loss."""
    assert images.labels is not None
    loss = F.cross_entropy(model(images.images.double()), images.labels)
    torch.autograd.backward(loss)


def plain_r(model: nn.Module, images: ImageSet, groups: dict[str, str]) -> dict[str, Tensor]:
    """R by group in float64 from ordinary weight gradients."""
    model = copy.deepcopy(model).double()
    backward(model, images)
    sums: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name in groups:
            assert parameter.grad is not None
            product = (parameter.detach() * parameter.grad).flatten(1) if parameter.dim() > 1 else (
                parameter.detach() * parameter.grad)[:, None]  # fmt: skip
            sums[groups[name]] = sums.get(groups[name], torch.zeros(())) + product.sum(1)
    return {group: total.abs() for group, total in sums.items()}


def test_r_equals_plain_autograd_for_coupled_and_single_layers(
    tiny_model: nn.Module, tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    scores = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    expected = plain_r(tiny_model, tiny_images, {**LAYERS, **OTHERS})
    for group in tiny_graph.groups:
        np.testing.assert_allclose(
            scores.r[group.units], expected[group.name], rtol=2e-4, atol=1e-7
        )


def test_layer_outputs_stand_for_weight_and_bias_gradients(tiny_graph: UnitGraph) -> None:
    products = GradientProducts(tiny_graph)
    watched = [node.name for node in tiny_graph.module.graph.nodes if products.is_layer(node.name)]
    assert len(watched) == 4  # all but the head, which is not a unit's
    for name in LAYERS:
        weight = products.tensor(name)
        assert weight is not None
        assert not weight.requires_grad


def test_r_does_not_depend_on_the_batch_size(
    tiny_graph: UnitGraph, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    monkeypatch.setattr(collector, "MAX_BATCH", 9)
    in_parts = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    np.testing.assert_allclose(in_parts.r, whole.r, rtol=1e-4)
    np.testing.assert_allclose(in_parts.u, whole.u, rtol=1e-2)


def test_r_on_a_propagated_graph_sums_every_produced_entry(
    tiny_model: nn.Module, tiny_images: ImageSet
) -> None:
    graph = build_unit_graph(tiny_model, (torch.zeros(2, 3, 8, 8),))
    model = copy.deepcopy(tiny_model).double()
    backward(model, tiny_images)
    expected = np.zeros(graph.num_units)
    for name, dims in graph.tensor_units.items():
        roles = {(m.tensor, m.dim) for g in graph.groups for m in g.members if m.role == "produces"}
        if (name, 0) in roles and name in dict(model.named_parameters()):
            parameter = model.get_parameter(name)
            assert parameter.grad is not None
            product = (parameter.detach() * parameter.grad).reshape(len(parameter), -1).sum(1)
            is_unit = dims[0] >= 0
            np.add.at(expected, dims[0][is_unit], product.numpy()[is_unit])
    scores = score_units(graph, tiny_images, seed=0, num_projections=4)
    assert graph.num_units == 18
    np.testing.assert_allclose(scores.r, np.abs(expected), rtol=2e-4, atol=1e-7)
    assert scores.num_unmeasured == 0


class SharedConv(nn.Module):
    """One convolution used twice, so its output appears twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 4]."""
        out: Tensor = self.head(self.conv(torch.relu(self.conv(x))).mean((2, 3)))
        return out


def test_r_counts_a_shared_weight_once_with_its_whole_gradient() -> None:
    model = randomised(SharedConv())
    images = ImageSet(
        torch.randn(12, 4, 6, 6, generator=torch.Generator().manual_seed(3)),
        torch.arange(12) % 4,
        "given",
    )
    groups = {"conv.weight": "conv", "conv.bias": "conv"}
    graph = hand_labelled(
        model, torch.zeros(2, 4, 6, 6), {"conv.weight": "conv"}, {"conv.bias": "conv"}
    )
    scores = score_units(graph, images, seed=0, num_projections=4)
    expected = plain_r(model, images, groups)["conv"]
    np.testing.assert_allclose(scores.r, expected, rtol=2e-4)


def test_r_of_a_fixed_batch_ignores_the_images_that_only_fill_it(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    free = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    values = {name: (np.full(4, -1), *dims[1:]) for name, dims in tiny_graph.value_units.items()}
    fixed_graph = dataclasses.replace(
        tiny_graph,
        value_units=values,
        has_dynamic_batch=False,
        inputs=dataclasses.replace(tiny_graph.inputs, example=(torch.zeros(4, 3, 8, 8),)),
    )
    fixed = score_units(fixed_graph, tiny_images, seed=0, num_projections=4)
    np.testing.assert_allclose(fixed.r, free.r, rtol=1e-4)
    np.testing.assert_allclose(fixed.u, free.u, rtol=1e-2)
