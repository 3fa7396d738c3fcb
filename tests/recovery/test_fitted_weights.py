from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.layer_rows import choose_positions, positions_of, sample_rows
from fairdeploy.recovery.least_squares.fittable_layers import FittableLayer, find_layers
from fairdeploy.recovery.least_squares.fitted_weights import (
    current_map,
    has_bias,
    own_tensors,
    write_map,
)
from fairdeploy.recovery.least_squares.normal_equations import NormalEquations
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import Pair, noise, shrink


class OneLayer(nn.Module):
    """A layer, perhaps a norm, and a readout that keeps the layer's output as it is."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


LAYERS = {
    "convolution": lambda: (nn.Conv2d(3, 6, 3, padding=1), None),
    "convolution without bias": lambda: (nn.Conv2d(3, 6, 3, bias=False), None),
    "convolution and norm": lambda: (nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)),
    "biased convolution and norm": lambda: (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)),
    "plain norm": lambda: (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "grouped": lambda: (nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)),
    "linear": lambda: (nn.Linear(8, 6), None),
}


def prepared(kind: str) -> tuple[Pair, FittableLayer]:
    module = OneLayer(*LAYERS[kind]())
    pair = shrink(module.eval() if kind == "plain norm" else randomise(module, 0), 0.0)
    (layer,) = find_layers(pair.graph, pair.shrunk, pair.removed)
    return pair, layer


def rows_of(layer: FittableLayer, images: Tensor, output: Tensor) -> Tensor:
    positions = positions_of(output, layer.window, layer.batch, len(images))
    at = choose_positions(torch.arange(len(images)), positions, 1e9, torch.Generator())
    return sample_rows(images, layer.window, at, has_bias(layer))


def outputs_by_row(layer: FittableLayer, output: Tensor) -> Tensor:
    last = output if layer.window.is_linear else output.movedim(1, -1)
    flat = last.reshape(-1, last.shape[-1])
    return flat.reshape(len(flat), layer.window.groups, -1).transpose(0, 1)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_current_map_gives_the_output_of_layer_and_norm(kind: str) -> None:
    pair, layer = prepared(kind)
    images = noise(4)
    output = pair.shrunk(images).detach()
    product = rows_of(layer, images, output) @ current_map(pair.shrunk, layer).float()
    torch.testing.assert_close(product, outputs_by_row(layer, output), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_written_map_is_what_the_network_then_computes(kind: str) -> None:
    pair, layer = prepared(kind)
    own_tensors(pair.shrunk, pair.graph.module)
    images = noise(4)
    rows = rows_of(layer, images, pair.shrunk(images))
    old = current_map(pair.shrunk, layer)
    wanted = torch.randn(old.shape, generator=torch.Generator().manual_seed(1)).double()
    sums = NormalEquations(*old.shape)
    sums.add(rows, torch.zeros_like(rows @ old.float()))
    write_map(pair.shrunk, layer, wanted, sums)
    got = outputs_by_row(layer, pair.shrunk(images).detach())
    torch.testing.assert_close(got, rows @ wanted.float(), rtol=1e-4, atol=1e-4)


def test_batchnorm_statistics_are_those_of_the_fitted_convolution() -> None:
    pair, layer = prepared("convolution and norm")
    images = noise(4)
    rows = rows_of(layer, images, pair.shrunk(images))
    wanted = torch.randn(1, rows.shape[2], 6, generator=torch.Generator().manual_seed(1)).double()
    sums = NormalEquations(1, rows.shape[2], 6)
    sums.add(rows, torch.zeros(1, rows.shape[1], 6))
    write_map(pair.shrunk, layer, wanted, sums)
    state = pair.shrunk.state_dict()
    output = nn.functional.conv2d(images, state["layer.weight"], stride=2)
    torch.testing.assert_close(
        state["norm.running_mean"], output.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        state["norm.running_var"], output.var((0, 2, 3), unbiased=False), rtol=1e-4, atol=1e-5
    )


def test_shared_tensors_are_copied_so_that_the_original_stays() -> None:
    pair, layer = prepared("linear")
    shrunk = pair.shrunk
    shrunk.get_parameter("layer.weight").data = pair.graph.module.get_parameter("layer.weight").data
    before = pair.graph.module.get_parameter("layer.weight").detach().clone()
    own_tensors(shrunk, pair.graph.module)
    with torch.no_grad():
        shrunk.get_parameter("layer.weight").zero_()
    assert torch.equal(pair.graph.module.get_parameter("layer.weight"), before)
    assert layer.name == "layer"


@pytest.mark.parametrize("kind", ["convolution and norm", "biased convolution and norm", "grouped"])
def test_weights_before_a_norm_stay_as_large_as_they_were(kind: str) -> None:
    pair, layer = prepared(kind)
    images = noise(64)
    before = pair.shrunk.get_parameter("layer.weight").detach().clone()
    with torch.no_grad():
        wanted = pair.shrunk(images)
    rows = rows_of(layer, images, wanted)
    own_tensors(pair.shrunk, pair.graph.module)
    old = current_map(pair.shrunk, layer)
    sums = NormalEquations(*old.shape)
    sums.add(rows, torch.zeros_like(rows @ old.float()))
    write_map(pair.shrunk, layer, 100 * old, sums)
    after = pair.shrunk.get_parameter("layer.weight").detach()
    torch.testing.assert_close(after.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1))
    with torch.no_grad():
        torch.testing.assert_close(pair.shrunk(images), 100 * wanted, rtol=1e-3, atol=1e-2)
