"""An optimizer goes on after the removal as if the lost weights had never been there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer, RMSprop

from fairdeploy.errors import OptimizerError
from fairdeploy.surgery.optimizer_state import kept_masks, sliced_optimizer
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.surgery.own_networks import Trainable, halved

MAKERS: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "momentum": lambda groups: SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "plain": lambda groups: SGD(groups, lr=0.1),
    "adam": lambda groups: Adam(groups, lr=0.01),
    "amsgrad": lambda groups: AdamW(groups, lr=0.01, amsgrad=True),
    "rmsprop": lambda groups: RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
}


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """Norms and biases without decay; the head's weight has a rate of its own."""
    named = dict(model.named_parameters())
    head = [named.pop("head.weight")]
    flat = [tensor for tensor in named.values() if tensor.dim() == 1]
    deep = [tensor for tensor in named.values() if tensor.dim() > 1]
    return [
        {"params": deep, "weight_decay": 0.05},
        {"params": flat, "weight_decay": 0.0},
        {"params": head, "lr": 0.3},
    ]


def give_gradients(model: nn.Module, seed: int) -> None:
    """Draw a gradient for every parameter (changes ``model``)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def step(optimizer: Optimizer, model: nn.Module, seed: int) -> None:
    """One step with drawn gradients (changes both)."""
    give_gradients(model, seed)
    optimizer.step()


def cut(tensor: torch.Tensor | None, masks: tuple[np.ndarray, ...]) -> torch.Tensor:
    """The slice that numpy takes."""
    assert tensor is not None
    return torch.from_numpy(tensor.detach().numpy()[np.ix_(*masks)])


@pytest.mark.parametrize("form", ["own class", "graph module"])
@pytest.mark.parametrize("name", MAKERS)
def test_step_on_the_shrunk_network_is_the_slice_of_the_step_on_the_original(
    name: str, form: str
) -> None:
    torch.manual_seed(0)
    model = Trainable()
    optimizer = MAKERS[name](groups_of(model))
    for seed in range(3):
        step(optimizer, model, seed)
    graph, removed, shrunk = halved(model)
    own, reason = rebuild_own_class(model, graph, shrunk)
    assert own is not None, reason
    network = own if form == "own class" else shrunk
    kept = kept_masks(graph, removed)
    small = sliced_optimizer(optimizer, model, network, kept)
    assert type(small) is type(optimizer)

    give_gradients(model, seed=9)
    for parameter_name, parameter in network.named_parameters():
        gradient = model.get_parameter(parameter_name).grad
        parameter.grad = cut(gradient, kept[parameter_name])
    optimizer.step()
    small.step()
    for parameter_name, parameter in network.named_parameters():
        expected = cut(model.get_parameter(parameter_name), kept[parameter_name])
        assert parameter.shape == expected.shape
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=0)


def test_groups_keep_their_settings_and_parameters_outside_stay_out() -> None:
    torch.manual_seed(0)
    model = Trainable()
    optimizer = SGD(groups_of(model)[1:], lr=0.1, momentum=0.9)
    step(optimizer, model, seed=0)
    graph, removed, shrunk = halved(model)
    small = sliced_optimizer(optimizer, model, shrunk, kept_masks(graph, removed))
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in small.param_groups] == [
        (0.1, 0.0, 0.9),
        (0.3, 0, 0.9),
    ]
    held = {id(p) for group in small.param_groups for p in group["params"]}
    names = {name for name, p in shrunk.named_parameters() if id(p) in held}
    everything = {name for name, _ in model.named_parameters()}
    assert names == everything - {"conv.weight", "hidden.weight"}
    small.param_groups[0]["lr"] = 5.0
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_original_optimizer_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model = Trainable()
    optimizer = Adam(groups_of(model), lr=0.01)
    step(optimizer, model, seed=0)
    graph, removed, shrunk = halved(model)
    before = {key: state["exp_avg"].clone() for key, state in optimizer.state.items()}
    small = sliced_optimizer(optimizer, model, shrunk, kept_masks(graph, removed))
    step(small, shrunk, seed=1)
    assert all(torch.equal(state["exp_avg"], before[key]) for key, state in optimizer.state.items())
    assert all(float(state["step"]) == 1 for state in optimizer.state.values())
    assert all(float(state["step"]) == 2 for state in small.state.values())


def test_factored_state_is_refused_in_one_line() -> None:
    torch.manual_seed(0)
    model = Trainable()
    optimizer = Adafactor(model.parameters())
    step(optimizer, model, seed=0)
    graph, removed, shrunk = halved(model)
    with pytest.raises(OptimizerError, match=r"state 'row_var' of Adafactor for '.*'") as caught:
        sliced_optimizer(optimizer, model, shrunk, kept_masks(graph, removed))
    assert "\n" not in str(caught.value)


def test_optimizer_of_another_model_is_refused() -> None:
    graph, removed, shrunk = halved(Trainable())
    stranger = SGD(Trainable().parameters(), lr=0.1)
    with pytest.raises(OptimizerError, match="is not the model's"):
        sliced_optimizer(stranger, Trainable(), shrunk, kept_masks(graph, removed))


def test_optimizer_that_wraps_another_is_refused() -> None:
    class Wrapper(SGD):
        def __init__(self, inner: Optimizer) -> None:
            super().__init__(inner.param_groups, lr=0.1)
            self.inner = inner

    model = Trainable()
    graph, removed, shrunk = halved(model)
    with pytest.raises(OptimizerError, match="Wrapper keeps tensors in 'inner'"):
        sliced_optimizer(
            Wrapper(SGD(model.parameters(), lr=0.1)), model, shrunk, kept_masks(graph, removed)
        )
