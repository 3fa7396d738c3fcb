from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.least_squares.fittable_layers import SumAfter, find_layers, sum_after
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import Pair, noise, shrink


class ScaledBranch(nn.Module):
    """A ConvNeXt block: linear layers with channels last, a factor per channel, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Parameter(torch.randn(3, 6, 3, 3))
        self.up = nn.Linear(6, 12)
        self.down = nn.Linear(12, 6)
        self.factor = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        # A computed weight is not refitted.
        x = nn.functional.conv2d(x, self.stem.transpose(0, 1), padding=1)
        y = self.down(nn.functional.gelu(self.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        x = x + y.mul(self.factor.reshape(1, -1, 1, 1))
        return self.head(x.mean((2, 3)))


def scaled_branch(factors: list[float]) -> nn.Module:
    module = randomise(ScaledBranch(), 0)
    with torch.no_grad():
        module.get_parameter("factor").copy_(torch.tensor(factors))
    return module


def test_a_sum_is_found_behind_a_transposition_and_a_factor() -> None:
    pair = shrink(scaled_branch([2.0, 1.0, 0.5, 3.0, 1.0, 1.0]), 0.0)
    layers = {x.name: x for x in find_layers(pair.graph, pair.shrunk, pair.removed)}
    found = layers["down"].sum_after
    assert found is not None
    assert found.node == layers["down"].target_node == "add"
    assert found.shortcut == "conv2d"
    assert found.scale == "factor"
    value = torch.randn(2, 6, 8, 5)
    assert torch.equal(found.in_layout(value), value.permute(0, 2, 3, 1))


def test_layout_undoes_two_transpositions() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    other = graph.placeholder("other")
    y = graph.call_function(torch.ops.aten.permute.default, (x, [0, 3, 1, 2]))
    z = graph.call_function(torch.ops.aten.transpose.int, (y, -1, 1))
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (other, z)))
    found = sum_after(x, 4, 3)
    assert found is not None
    value = torch.randn(2, 3, 4, 5)
    summed = value.permute(0, 3, 1, 2).transpose(-1, 1)
    assert torch.equal(found.in_layout(summed), value)


def test_a_factor_per_position_ends_the_way() -> None:
    class PerPosition(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)
            self.factor = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.layer(x) * self.factor).mean((2, 3))

    pair = shrink(PerPosition().eval(), 0.0)
    (layer,) = find_layers(pair.graph, pair.shrunk, pair.removed)
    assert layer.sum_after is None


def wrong_shortcut(factors: list[float]) -> Pair:
    """Nothing went, but the stem of the shrunk network, which nothing refits, gives 0.9 times."""
    module = scaled_branch(factors)
    with torch.no_grad():
        # Pairs of steep GELUs, which are ReLUs of x and -x: the branch can add any linear map.
        module.get_parameter("up.weight")[:6] = torch.eye(6) * 50
        module.get_parameter("up.weight")[6:] = torch.eye(6) * -50
        module.get_parameter("up.bias").zero_()
    graph = build_unit_graph(module, (noise(2),))
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    shrunk = remove_units(graph, removed).module
    own_tensors(shrunk, graph.module)
    with torch.no_grad():
        shrunk.get_parameter("stem").mul_(0.9)
    return Pair(graph, removed, shrunk)


def test_a_scaled_branch_makes_up_for_the_error_of_its_shortcut() -> None:
    pair = wrong_shortcut([2.0, 1.0, 0.5, 3.0, 0.25, -1.0])
    before = {name: t.clone() for name, t in pair.shrunk.state_dict().items()}
    fits = {
        fit.layer: fit
        for fit in fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(64)).layers
    }
    assert list(fits) == ["up", "down", "head"]
    assert fits["down"].error_before is not None
    assert fits["down"].error_after is not None
    assert fits["down"].error_before > 1e-6
    assert fits["down"].error_after < 1e-2 * fits["down"].error_before
    # The branch adds a tenth of the stem's output; its weights are as large as they were.
    weights = pair.shrunk.get_parameter("down.weight"), before["down.weight"]
    lengths = [weight.detach().flatten(1).norm(dim=1) for weight in weights]
    torch.testing.assert_close(*lengths, rtol=1e-3, atol=0)
    assert fits["head"].error_before is not None
    assert fits["head"].error_before < 1e-4


@pytest.mark.parametrize("tiny", [0.0, 1e-9, -1e-5])
def test_weights_before_a_factor_near_zero_do_not_grow(tiny: float) -> None:
    pair = wrong_shortcut([2.0, 1.0, 0.5, 3.0, tiny, -1.0])
    before = pair.shrunk.get_parameter("down.weight").detach().clone()
    (*_, down, head) = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(64)).layers
    after = pair.shrunk.get_parameter("down.weight").detach()
    torch.testing.assert_close(
        after.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1), rtol=0.1, atol=0
    )
    assert down.layer == "down"
    assert head.error_before is not None
    assert head.error_before < 1e-4  # this channel's error was made up for, too


def test_an_identity_layout_is_kept() -> None:
    value = torch.randn(2, 3, 4)
    assert torch.equal(SumAfter("add", "x", (0, 1, 2), None).in_layout(value), value)
