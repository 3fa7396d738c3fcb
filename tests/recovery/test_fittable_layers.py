from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.recovery.least_squares.fittable_layers import (
    RECTIFIED,
    FittableLayer,
    find_layers,
)
from tests.recovery.shrunk_networks import shrink, shrink_channels, small_residual


def layers_of(module: nn.Module) -> dict[str, FittableLayer]:
    pair = shrink(module.eval(), 0.0)
    return {layer.name: layer for layer in find_layers(pair.graph, pair.shrunk, pair.removed)}


def test_batchnorm_and_relu_after_a_convolution_are_found() -> None:
    stem = layers_of(small_residual())["stem"]
    assert stem.batchnorm is not None
    assert stem.batchnorm.running_var == "stem_norm.running_var"
    assert stem.target_node == stem.batchnorm.node
    assert stem.sum_after is None
    assert stem.limits == RECTIFIED


def test_target_is_the_sum_when_the_shortcut_is_computed_before_the_layer() -> None:
    conv2 = layers_of(small_residual())["conv2"]
    assert conv2.target_node == "add"
    assert conv2.sum_after is not None
    assert conv2.sum_after.shortcut == "relu"
    assert conv2.limits == RECTIFIED


def test_kept_channels_are_those_of_the_original() -> None:
    pair = shrink_channels(small_residual(), "conv1.weight", [0, 5])
    layers = {x.name: x for x in find_layers(pair.graph, pair.shrunk, pair.removed)}
    assert layers["conv1"].kept_channels == (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)
    assert layers["conv2"].kept_channels == tuple(range(8))


class Unfittable(nn.Module):
    """A weight used twice, and one that is rearranged; between them an ordinary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 1)
        self.plain = nn.Conv2d(3, 4, 1)
        self.computed = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.shared(self.shared(x).relu()))
        weight = self.computed.weight.transpose(0, 1)
        return nn.functional.conv2d(x, weight).mean((2, 3))


def test_shared_and_computed_weights_are_left_out() -> None:
    assert list(layers_of(Unfittable())) == ["plain"]


class Branch(nn.Module):
    """The shortcut is computed after the main branch, and the main branch has two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x)
        total = self.norm(main) + self.shortcut(x)
        return (total * main).mean((2, 3))


def test_a_batchnorm_is_not_folded_when_something_else_reads_the_convolution() -> None:
    layers = layers_of(Branch())
    assert layers["main"].batchnorm is None
    # It is fitted by itself then.
    assert layers["norm"].is_norm
    assert layers["main"].target_node == "conv2d"
    # The later operand of the sum makes up for the earlier one.
    assert layers["shortcut"].target_node == "add"
    assert layers["shortcut"].sum_after is not None
    assert layers["shortcut"].sum_after.shortcut == "batch_norm"
    assert layers["shortcut"].limits is None


def test_transformer_projections_take_the_residual_stream_as_shortcut() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(8, 16)
            self.down = nn.Linear(16, 8)
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean(1)
            x = x + self.drop(self.down(nn.functional.gelu(self.up(x))))
            return x.sum(1)

    layers = layers_of(Mlp())
    assert layers["down"].target_node == "add"
    assert layers["down"].sum_after is not None
    assert layers["up"].sum_after is None
    assert layers["up"].window.is_linear


def test_layers_are_in_the_order_of_execution() -> None:
    assert list(layers_of(small_residual())) == ["stem", "conv1", "conv2", "head"]


class PreActivated(nn.Module):
    """A dense block: the second norm reads both maps, so it belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grow = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow(self.norm(x).relu())], dim=1)
        return self.head(self.last_norm(x).relu().mean((2, 3)))


def test_norms_that_follow_no_layer_are_layers_of_their_own() -> None:
    layers = layers_of(PreActivated())
    assert list(layers) == ["stem", "norm", "grow", "last_norm", "head"]
    assert [name for name, layer in layers.items() if layer.is_norm] == ["norm", "last_norm"]
    assert layers["last_norm"].window.groups == 10
    assert layers["last_norm"].limits == RECTIFIED


@pytest.mark.parametrize(
    ("activation", "limits"),
    [
        (nn.ReLU6(), (0.0, 6.0)),
        (nn.Hardtanh(-1.0, 2.0), (-1.0, 2.0)),
        (nn.functional.relu6, (0.0, 6.0)),
        (lambda x: x.clamp(max=3.0), (-math.inf, 3.0)),
        (lambda x: x.clamp_min(0.5), (0.5, math.inf)),
        (nn.GELU(), None),
    ],
)
def test_where_an_activation_cuts_off_is_known(
    activation: Callable[[Tensor], Tensor], limits: tuple[float, float] | None
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(activation(self.stem(x)).mean((2, 3)))

    assert layers_of(Net())["stem"].limits == limits
