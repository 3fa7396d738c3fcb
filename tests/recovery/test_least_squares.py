from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.recovery.least_squares.fit import fit_least_squares, rows_wanted
from fairdeploy.recovery.least_squares.normal_equations import NormalEquations
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import RandomNetwork, networks, randomise
from tests.recovery.shrunk_networks import Pair, noise, shrink, shrink_channels, small_residual


def distance(pair: Pair, images: Tensor) -> float:
    """Squared error of the shrunk network's output, as a share of the original's variation."""
    with torch.no_grad():
        wanted, got = pair.graph.module(images), pair.shrunk(images)
    return float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_a_removed_copy_of_a_kept_channel_is_made_up_for_exactly() -> None:
    module = small_residual()
    with torch.no_grad():
        for tensor in (module.conv1.weight, *module.norm1.state_dict().values()):
            if tensor.dim() > 0:
                tensor[3] = tensor[7]
    pair = shrink_channels(module, "conv1.weight", [3])
    fresh = noise(200, seed=9)
    before = distance(pair, fresh)
    assert before > 1e-4
    fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(100))
    assert distance(pair, fresh) < 1e-3 * before


def test_recovery_brings_unseen_outputs_closer_to_the_original() -> None:
    for seed in range(3):
        pair = shrink(small_residual(seed), 0.3, seed)
        fresh = noise(200, seed=99)
        before = distance(pair, fresh)
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(128))
        assert distance(pair, fresh) < 0.5 * before


def test_sum_makes_up_for_the_error_of_its_shortcut() -> None:
    pair = shrink_channels(small_residual(), "conv1.weight", [0, 1, 2])
    with torch.no_grad():
        # Damage the shortcut where no layer can repair it: a norm that is folded into "stem" can.
        pair.shrunk.get_parameter("stem.weight").mul_(0.5)
    summary = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(128))
    fits = {fit.layer: fit for fit in summary.layers}
    assert fits["stem"].error_before is not None
    assert fits["stem"].error_after is not None
    assert fits["stem"].error_before > 0.01
    assert fits["stem"].error_after < 1e-6


def test_original_stays_as_it_is_and_equal_seeds_give_equal_weights() -> None:
    first, second = shrink(small_residual(), 0.3), shrink(small_residual(), 0.3)
    before = {name: t.clone() for name, t in first.graph.module.state_dict().items()}
    for pair in (first, second):
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(32), seed=3)
    for name, tensor in first.graph.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, tensor in first.shrunk.state_dict().items():
        assert torch.equal(tensor, second.shrunk.state_dict()[name]), name


def test_memory_limit_changes_nothing_but_where_values_wait() -> None:
    ample, tight = shrink(small_residual(), 0.3), shrink(small_residual(), 0.3)
    fit_least_squares(ample.graph, ample.shrunk, ample.removed, noise(80))
    fit_least_squares(tight.graph, tight.shrunk, tight.removed, noise(80), max_memory_bytes=0)
    for name, tensor in ample.shrunk.state_dict().items():
        assert torch.equal(tensor, tight.shrunk.state_dict()[name]), name


def test_nothing_changes_when_nothing_was_removed() -> None:
    pair = shrink(small_residual(), 0.0)
    before = {name: t.clone() for name, t in pair.shrunk.state_dict().items()}
    summary = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(32))
    assert [fit.outcome for fit in summary.layers] == ["exact"] * 4
    for name, tensor in pair.shrunk.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_progress_counts_every_layer() -> None:
    pair = shrink(small_residual(), 0.3)
    calls: list[tuple[int, int]] = []
    fit_least_squares(
        pair.graph, pair.shrunk, pair.removed, noise(8),
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused_before_anything_changes(count: int) -> None:
    pair = shrink(small_residual(), 0.3)
    before = {name: t.clone() for name, t in pair.shrunk.state_dict().items()}
    with pytest.raises(DataError, match=f"at least 2 calibration images, got {count}"):
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(count))
    assert all(torch.equal(t, before[name]) for name, t in pair.shrunk.state_dict().items())


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=networks(), seed=st.integers(0, 99))
def test_any_network_is_recovered_without_a_layer_getting_worse(
    network: RandomNetwork, seed: int
) -> None:
    pair = shrink(network, 0.3, seed)
    summary = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(16))
    for fit in summary.layers:
        assert fit.error_before is not None
        assert fit.error_after is not None
        assert fit.error_after <= fit.error_before, fit
    output = pair.shrunk(noise(3))
    assert output.shape == (3, 5)
    assert output.isfinite().all()


@pytest.mark.parametrize("kind", ["depthwise", "grouped", "attention", "padded_residual", "dense"])
def test_each_way_of_tying_channels_is_repaired(kind: str) -> None:
    network = RandomNetwork((kind, "plain"), (6, 6), flatten=True)
    pair = shrink(randomise(network, 1), 0.25)
    fresh = noise(200, seed=99)
    before = distance(pair, fresh)
    fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(256))
    assert distance(pair, fresh) < 0.7 * before


def test_a_layer_with_too_many_unknowns_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairdeploy.recovery.least_squares.fit.MAX_UNKNOWNS", 60)
    pair = shrink(small_residual(), 0.3)
    conv2 = pair.shrunk.get_parameter("conv2.weight").detach().clone()
    summary = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(32))
    outcomes = {fit.layer: fit.outcome for fit in summary.layers}
    assert outcomes["conv2"] == "skipped"
    assert outcomes["conv1"] == "fitted"
    assert torch.equal(pair.shrunk.get_parameter("conv2.weight"), conv2)


class FixedBatch(nn.Module):
    """Cuts its batch in two, so that a batch of two is captured as just that."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        first, second = x.unbind(0)
        return torch.stack([first.mean((1, 2)), second.mean((1, 2))])


def test_a_network_of_fixed_batch_is_fitted_on_whole_batches() -> None:
    module = randomise(FixedBatch(), 0)
    graph = build_unit_graph(module, (noise(2),))
    assert not graph.has_dynamic_batch
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    removed[graph.tensor_units["first.weight"][0][:2]] = True
    pair = Pair(graph, removed, remove_units(graph, removed).module)
    summary = fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(9))
    assert [fit.outcome for fit in summary.layers] == ["exact", "fitted"]


def test_rows_are_enough_for_the_unknowns_and_fit_into_memory() -> None:
    assert rows_wanted(1, 10, 4) == 65_536
    assert rows_wanted(1, 2000, 100) == 16_000
    assert rows_wanted(1, 6000, 2000) * 4 * 8000 <= 400_000_000
    assert rows_wanted(1000, 10, 1) * 4 * 11_000 <= 400_000_000


def test_units_of_the_shortcut_itself_can_go_too() -> None:
    module = small_residual()
    pair = shrink_channels(module, "stem.weight", [2])
    assert np.count_nonzero(pair.removed) == 1
    fresh = noise(200, seed=9)
    before = distance(pair, fresh)
    fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(128))
    assert distance(pair, fresh) < 0.5 * before
    again = remove_units(pair.graph, pair.removed).module
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in pair.shrunk.named_parameters()
    }


class PreActivated(nn.Module):
    """Two maps side by side under one norm, which belongs to neither convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.grow = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.norm(torch.cat([x, self.grow(x)], dim=1)).relu().mean((2, 3)))


def test_a_norm_that_stands_alone_is_restored_exactly() -> None:
    pair = shrink(randomise(PreActivated(), 0), 0.0)
    shrunk, images = pair.shrunk, noise(64)
    with torch.no_grad():
        shrunk.get_parameter("norm.weight").mul_(0.5)
        shrunk.get_buffer("norm.running_mean").add_(1.0)
    fits = fit_least_squares(pair.graph, shrunk, pair.removed, images).layers
    assert {fit.layer: fit.outcome for fit in fits} == {
        "stem": "exact", "grow": "exact", "norm": "fitted", "head": "exact",
    }  # fmt: skip
    fresh = noise(16, seed=5)
    torch.testing.assert_close(shrunk(fresh), pair.graph.module(fresh), rtol=1e-4, atol=1e-4)
    # Its statistics are those of its input now.
    maps = torch.cat(
        [
            c := nn.functional.conv2d(images, shrunk.get_parameter("stem.weight"), padding=1),
            nn.functional.conv2d(c, shrunk.get_parameter("grow.weight"), padding=1),
        ],
        1,
    )
    torch.testing.assert_close(
        shrunk.get_buffer("norm.running_mean"), maps.mean((0, 2, 3)), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_of_a_layer_does_not_hang_on_the_rounding_of_its_products(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    add = NormalEquations.add

    def add_coarsely(self: NormalEquations, rows: Tensor, residuals: Tensor) -> None:
        """As sums of thousands of products come out in float32 at worst."""
        add(self, rows, residuals)
        for sums, columns in ((self.gram, rows), (self.cross, residuals)):
            sizes = rows.abs().double().mT @ columns.abs().double()
            sums.add_(2e-5 * sizes * torch.randn(sums.shape, generator=generator).double())

    monkeypatch.setattr(NormalEquations, "add", add_coarsely)
    test_a_norm_that_stands_alone_is_restored_exactly()
