"""The whole pass: what it measures, and that it leaves the model as it was."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.records import ImageSet
from fairdeploy.scoring import score_units
from tests.scoring.hand_labelled import hand_labelled


def all_rng_states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def test_scoring_leaves_the_model_exactly_as_it_was(
    tiny_model: nn.Module, tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    calls: list[str] = []
    tiny_model.register_forward_hook(lambda *_: calls.append("forward"))
    parameters = dict(tiny_model.named_parameters())
    parameters["stem.weight"].grad = torch.full_like(parameters["stem.weight"], 7.0)
    parameters["head.bias"].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    modes = [module.training for module in tiny_model.modules()]
    grads = {name: parameter.requires_grad for name, parameter in parameters.items()}
    rng_states = all_rng_states()

    score_units(tiny_graph, tiny_images, seed=0, num_projections=4)

    after = tiny_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in tiny_model.modules()] == modes
    assert {name: p.requires_grad for name, p in tiny_model.named_parameters()} == grads
    for name, parameter in tiny_model.named_parameters():
        if name == "stem.weight":
            assert parameter.grad is not None
            assert (parameter.grad == 7.0).all()
        else:
            assert parameter.grad is None
    assert not calls
    assert len(tiny_model._forward_hooks) == 1
    assert not any(parameter._backward_hooks for parameter in parameters.values())
    assert all_rng_states() == rng_states
    assert torch.is_grad_enabled()


def test_scoring_works_inside_no_grad_and_inference_mode(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    plain = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    with torch.no_grad():
        in_no_grad = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    with torch.inference_mode():
        in_inference = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    assert np.array_equal(plain.r, in_no_grad.r)
    assert np.array_equal(plain.r, in_inference.r)
    assert plain.r.max() > 0


def test_scores_repeat_for_a_seed_and_their_directions_change_with_it(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    first, again, other = (
        score_units(tiny_graph, tiny_images, seed=seed, num_projections=4) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.u, again.u)
    assert np.array_equal(first.r, again.r)
    assert not np.array_equal(first.u, other.u)
    assert np.array_equal(first.r, other.r)


def test_unlabelled_images_are_scored_with_the_models_own_predictions(
    tiny_model: nn.Module, tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    with torch.no_grad():
        predicted = tiny_model(tiny_images.images).argmax(1)
    named = ImageSet(tiny_images.images, predicted, "given")
    unnamed = ImageSet(tiny_images.images, None, "predicted")
    expected = score_units(tiny_graph, named, seed=0, num_projections=4)
    scores = score_units(tiny_graph, unnamed, seed=0, num_projections=4)
    np.testing.assert_allclose(scores.r, expected.r)
    np.testing.assert_allclose(scores.u, expected.u)


def test_a_label_beyond_the_outputs_is_refused_with_both_numbers(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    wrong = ImageSet(tiny_images.images[:3], torch.tensor([0, 4, 1]), "given")
    with pytest.raises(DataError, match=r"label 4 does not fit the model's 4 outputs"):
        score_units(tiny_graph, wrong, seed=0)


def test_no_images_are_refused(tiny_graph: UnitGraph) -> None:
    with pytest.raises(DataError, match="no images to score with"):
        score_units(tiny_graph, ImageSet(torch.zeros(0, 3, 8, 8), None, "none"), seed=0)


def test_progress_adds_up_to_all_images(tiny_graph: UnitGraph, tiny_images: ImageSet) -> None:
    done: list[int] = []
    score_units(tiny_graph, tiny_images, seed=0, num_projections=4, progress=done.append)
    assert sum(done) == 70
    assert len(done) > 1


class ClassFilter(nn.Module):
    """Three channels: the class's brightness, noise of the second colour, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0]))[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2]."""
        out: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return out


def test_u_is_high_for_a_channel_that_tells_classes_apart_and_zero_for_a_dead_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.rand(40, 3, 8, 8, generator=generator)
    images[:, 0] += labels[:, None, None]
    graph = hand_labelled(ClassFilter().eval(), torch.zeros(2, 3, 8, 8), {"conv.weight": "conv"})
    scores = score_units(graph, ImageSet(images, labels, "given"), seed=0)
    assert scores.u[2] == 0
    assert scores.u[0] > 4 * scores.u[1] > 0
    assert scores.u.mean() == pytest.approx(1)
    assert (scores.num_classes, scores.num_unmeasured) == (2, 0)


def test_units_that_no_layer_shows_follow_their_r_rank(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    hidden = {name: dims for name, dims in tiny_graph.value_units.items() if "linear" not in name}
    graph = dataclasses.replace(tiny_graph, value_units=hidden)
    scores = score_units(graph, tiny_images, seed=0, num_projections=4)
    (group,) = (group for group in graph.groups if group.name == "hidden")
    assert isinstance(group, Group)
    assert scores.num_unmeasured == group.size
    assert np.array_equal(np.argsort(scores.u[group.units]), np.argsort(scores.r[group.units]))
    assert scores.u[group.units].mean() == pytest.approx(1)
