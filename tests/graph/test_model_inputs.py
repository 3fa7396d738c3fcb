"""Networks are called, captured and varied by the names, types and sizes of their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.capture.model_inputs import ModelInputs, bound, model_inputs, random_input
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records.input_specs import InputSpec, parse_inputs
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import IMAGE, RandomNetwork, networks, randomise
from tests.surgery.exactness import random_removal


class Calls(nn.Module):
    """Its forward has every kind of parameter."""

    def forward(
        self, first: Tensor, /, second: Tensor, skipped: Any = 1, third: Any = None, *, last: Tensor
    ) -> Tensor:
        return torch.cat([first, 2 * second, 3 * third, 4 * last], dim=1)


class Anything(nn.Module):
    """Its forward names nothing."""

    def forward(self, *inputs: Tensor, **options: Tensor) -> Tensor:
        return inputs[0] - inputs[1]


def inputs_for(module: nn.Module, *texts: str, **options: Any) -> ModelInputs:
    specs = parse_inputs(texts)
    shape = tuple(size if isinstance(size, int) else size.largest for size in specs[0].sizes)
    return model_inputs(module, specs, options.pop("image_shape", shape), **options)


def test_inputs_are_put_in_the_order_of_the_forward_and_called_as_it_wants() -> None:
    texts = ("last:1,2,2", "first:1,2,2", "third:1,2,2", "second:1,2,2")
    inputs = inputs_for(Calls(), *texts)
    assert inputs.names == ("first", "second", "third", "last")
    assert inputs.specs[inputs.image].name == "last", "the first that the user named"
    tensors = [torch.full((1, 1, 2, 2), float(value)) for value in (1, 2, 3, 4)]
    args, kwargs = bound(Calls(), inputs.names, tensors)
    assert len(args) == 2
    assert list(kwargs) == ["third", "last"]
    assert inputs.call(Calls(), tensors)[0, :, 0, 0].tolist() == [1, 4, 9, 16]


def test_captured_graph_takes_one_tensor_per_input_by_position_or_name() -> None:
    inputs = inputs_for(Calls(), "first:1,2,2", "second:1,2,2", "third:1,2,2", "last:1,2,2")
    captured = capture(Calls(), inputs)
    tensors = inputs.random(3, torch.Generator().manual_seed(0))
    expected = inputs.call(Calls(), tensors)
    torch.testing.assert_close(captured.module(*tensors), expected)
    by_name = captured.module.forward(*tensors[:3], last=tensors[3])
    torch.testing.assert_close(by_name, expected)


def test_names_of_python_s_own_functions_stay_names_of_inputs() -> None:
    class Shadows(nn.Module):
        def forward(self, input: Tensor, *, mean: Tensor) -> Tensor:
            return input.mean((2, 3)) - mean.mean((2, 3))

    captured = capture(Shadows(), inputs_for(Shadows(), "input:1,2,2", "mean:1,2,2"))
    ones = torch.ones(3, 1, 2, 2)
    assert captured.module.forward(mean=ones, input=3 * ones).tolist() == [[2.0]] * 3


def test_forward_without_names_takes_inputs_in_the_given_order() -> None:
    inputs = inputs_for(Anything(), "b:1,2,2", "a:1,2,2")
    assert inputs.names == ("b", "a")
    captured = capture(Anything(), inputs)
    assert captured.has_dynamic_batch
    ones = torch.ones(3, 1, 2, 2)
    assert float(captured.module(3 * ones, ones).mean()) == 2.0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("first:1,2,2", "other:1"), r"no input 'other'; its forward takes first, second, skipped"),
        (("first:1,2,2", "second:1"), r"forward also needs 'last'; describe every input"),
    ],
)
def test_names_that_do_not_fit_the_forward_are_refused(
    texts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        inputs_for(Calls(), *texts)


def test_random_values_keep_to_their_type_and_range() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = random_input(InputSpec("ids", (50,), "int32", 3), (40, 50), generator)
    assert whole.dtype == torch.int32
    assert whole.unique().tolist() == [0, 1, 2]
    assert random_input(InputSpec("n", (), "int64"), (90,), generator).unique().tolist() == [0, 1]
    mask = random_input(InputSpec("mask", (4,), "bool"), (500, 4), generator)
    assert mask.dtype == torch.bool
    assert mask.any(dim=1).all()
    assert not mask.all(dim=1).any()
    noise = random_input(InputSpec("x", (100,)), (100, 100), generator)
    assert abs(float(noise.std()) - 1) < 0.05


class Words(nn.Module):
    """Looks tokens up in a table, by way of a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.table, self.head = nn.Conv2d(3, 6, 1), nn.Embedding(9, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        words = self.table(tokens[:, 1:].flatten(1)).mean(1)
        return self.head(torch.relu(self.stem(x)).mean((2, 3)) + words)


def test_whole_numbers_stay_within_the_table_that_they_look_up() -> None:
    network = randomise(Words(), seed=0)
    graph = build_unit_graph(network, inputs_for(network, "x:3,4,4", "tokens:7:int64"))
    assert str(graph.inputs.specs[1]) == "tokens:7:int64:9"
    tokens = graph.inputs.random(200, torch.Generator().manual_seed(0))[1]
    assert tokens.unique().tolist() == list(range(9))
    removed = np.zeros(graph.num_units, dtype=bool)
    removed[:3] = True
    assert prove(graph, remove_units(graph, removed).module, removed).passed


class TwoStems(nn.Module):
    """A random network fed by the sum of two stems."""

    def __init__(self, body: RandomNetwork) -> None:
        super().__init__()
        self.left, self.right, self.body = nn.Conv2d(2, 3, 1), nn.Conv2d(1, 3, 1), body

    def forward(self, left: Tensor, *, right: Tensor) -> dict[str, Tensor]:
        logits = self.body(torch.relu(self.left(left)) + self.right(right))
        return {"logits": logits, "margin": logits.amax(1) - logits.mean(1)}


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=networks(max_blocks=2), seed=st.integers(0, 1000))
def test_random_networks_of_two_inputs_shrink_exactly(body: RandomNetwork, seed: int) -> None:
    network = randomise(TwoStems(body), seed)
    _, height, width = IMAGE
    texts = (f"left:2,{height},{width}", f"right:1,{height},{width}")
    graph = build_unit_graph(network, inputs_for(network, *texts))
    assert graph.outputs.names == ("logits", "margin")
    removed = random_removal(graph, seed, 0.5)
    shrunk = remove_units(graph, removed).module
    assert prove(graph, shrunk, removed, seed=seed).passed
    inputs = graph.inputs.random(3, torch.Generator().manual_seed(seed))
    assert shrunk(*inputs)["margin"].shape == (3,)


class Map(nn.Module):
    """Any image size; ``kind`` breaks that in one way."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)
        if kind == "grid":
            self.grid = nn.Parameter(torch.randn(8, 14, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "padded" and x.shape[3] % 8:
            x = nn.functional.pad(x, (0, 8 - x.shape[3] % 8))
        y = self.body(torch.relu(self.stem(x)))
        if self.kind == "grid":
            y = y + self.grid
        if self.kind == "square":
            assert x.shape[2] == x.shape[3], "needs a square"
        return self.head(y).mean((2, 3))


def test_varying_sizes_are_proved_at_a_second_size_in_both_forms() -> None:
    network = randomise(Map(), seed=1)
    inputs = inputs_for(network, "x:3,H=12-24/4,W=12-24/4", image_shape=(3, 16, 16))
    assert inputs.other_sizes() == {"H": 12, "W": 20}
    graph = build_unit_graph(network, inputs)
    removed = np.zeros(graph.num_units, dtype=bool)
    removed[[0, 3, 9]] = True
    shrunk = remove_units(graph, removed).module
    result = prove(graph, shrunk, removed)
    assert result.passed
    assert result.image_sizes == ("H=16, W=16", "H=12, W=20")
    own, reason = rebuild_own_class(network, graph, shrunk)
    assert own is not None, reason
    image = torch.randn(1, 3, 24, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(shrunk(image), own(image))


def test_proof_fails_when_the_networks_agree_at_the_captured_size_only() -> None:
    network = randomise(Map(), seed=1)
    inputs = inputs_for(network, "x:3,H=12-24/4,16", image_shape=(3, 16, 16))
    graph = build_unit_graph(network, inputs)
    none_removed = np.zeros(graph.num_units, dtype=bool)
    shrunk = remove_units(graph, none_removed).module

    class WrongElsewhere(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return shrunk(x) + float(x.shape[2] != 16)

    result = prove(graph, WrongElsewhere(), none_removed)  # type: ignore[arg-type]
    assert not result.passed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("padded", r"cannot take the sizes .*: at H=12, W=20 it runs other code; give a step"),
        ("grid", r"cannot take the sizes 'H=12-24/4' \(the model's code takes 16 only\); give"),
        ("square", r"cannot take the sizes .*needs a square.*fixed size: --input x:3,16,16"),
    ],
)
def test_sizes_that_cannot_vary_are_refused_with_the_way_out(kind: str, message: str) -> None:
    network = randomise(Map(kind), seed=1)
    inputs = inputs_for(network, "x:3,H=12-24/4,W=12-24/4", image_shape=(3, 16, 16))
    with pytest.raises(ModelError, match=message) as caught:
        build_unit_graph(network, inputs)
    assert "\n" not in str(caught.value)


def test_network_that_pads_takes_the_sizes_of_its_step() -> None:
    network = randomise(Map("padded"), seed=1)
    inputs = inputs_for(network, "x:3,16,W=8-32/8", image_shape=(3, 16, 16))
    assert build_unit_graph(network, inputs).num_units == 16


class Reshaped(nn.Module):
    """Takes exactly ``batch`` images."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.stem, self.head = batch, nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.stem(x)).reshape(self.batch, 8, 16).mean(2))


@pytest.mark.parametrize(("batch", "asked"), [(1, None), (2, None), (5, 5)])
def test_network_that_takes_one_batch_only_is_captured_with_it(
    batch: int, asked: int | None
) -> None:
    network = randomise(Reshaped(batch), seed=1)
    inputs = inputs_for(network, "x:3,4,4", fixed_batch=asked)
    graph = build_unit_graph(network, inputs)
    assert not graph.has_dynamic_batch
    assert graph.inputs.batch == batch
    removed = np.zeros(graph.num_units, dtype=bool)
    removed[:4] = True
    result = prove(graph, remove_units(graph, removed).module, removed)
    assert result.passed
    assert result.batch_sizes == (batch,)


def test_network_that_takes_any_batch_is_captured_with_a_fixed_one_when_asked() -> None:
    network = randomise(Map(), seed=1)
    graph = build_unit_graph(network, inputs_for(network, "x:3,8,8", fixed_batch=4))
    assert not graph.has_dynamic_batch
    assert graph.inputs.batch == 4


def test_network_that_fails_on_its_inputs_names_the_options_that_help() -> None:
    with pytest.raises(ModelError) as caught:
        build_unit_graph(Reshaped(5).eval(), inputs_for(Reshaped(5), "x:3,4,4"))
    message = str(caught.value)
    assert message.startswith("the model fails on inputs x [2, 3, 4, 4] float32 at ")
    assert "in forward: 'return self.head" in message
    for option in ("--input-size", "--input NAME:SIZES", "--fixed-batch"):
        assert option in message


def test_forward_that_takes_a_list_is_refused_in_words() -> None:
    class Listed(nn.Module):
        def forward(self, images: list[Tensor]) -> Tensor:
            return torch.stack([image.mean() for image in images["left"]])  # type: ignore[call-overload]

    with pytest.raises(ModelError, match=r"takes a nest of tensors \('images' is a list\[Tensor\]"):
        build_unit_graph(Listed(), inputs_for(Listed(), "images:3,4,4"))
