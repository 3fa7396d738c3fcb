"""Networks that have the sequence before the images are repaired as those that have it after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.layers import score_points
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.recovery.judgement import Judge
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.recovery.training.network_blocks import find_cuts
from fairdeploy.scoring.reconstructability import reconstruction_errors
from fairdeploy.scoring.signals import measure_signals
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import noise
from tests.surgery.exactness import random_removal


class Encoder(nn.Module):
    """Patches through an encoder with the sequence first, or the images."""

    def __init__(self, is_batch_first: bool) -> None:
        super().__init__()
        self.is_batch_first = is_batch_first
        self.patch = nn.Conv2d(3, 8, 2, 2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=is_batch_first)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2)
        if self.is_batch_first:
            return self.head(self.encoder(y.transpose(1, 2)).mean(1))
        return self.head(self.encoder(y.permute(2, 0, 1)).mean(0))


class Rows(nn.Module):
    """Rows of the image through a recurrent layer and a linear one."""

    def __init__(self, is_batch_first: bool) -> None:
        super().__init__()
        self.is_batch_first = is_batch_first
        self.layer = nn.LSTM(24, 8, batch_first=is_batch_first)
        self.mix, self.head = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2).flatten(2)
        y, _ = self.layer(y if self.is_batch_first else y.transpose(0, 1))
        return self.head(self.mix(y).relu().mean(1 if self.is_batch_first else 0))


def pair_of(kind: type[Encoder] | type[Rows]) -> tuple[nn.Module, nn.Module]:
    first = randomise(kind(True), 5)
    second = kind(False).eval()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    return first, second


@pytest.mark.parametrize("kind", [Encoder, Rows])
def test_the_place_of_the_images_changes_neither_scores_nor_repair(
    kind: type[Encoder] | type[Rows],
) -> None:
    images, fresh = noise(48), noise(60, seed=3)
    labels = torch.arange(48) % 5
    found: list[list[Tensor]] = []
    for network in pair_of(kind):
        graph = build_unit_graph(network, (noise(2),))
        data = ImageSet(images, labels, "given")
        signals = measure_signals(graph, data, ("wasserstein", "taylor", "hrank", "apoz"), seed=0)
        errors, _ = reconstruction_errors(graph, data, seed=0)
        removed = random_removal(graph, 2, 0.4)
        shrunk = remove_units(graph, removed).module
        fit_least_squares(graph, shrunk, removed, images)
        repaired = shrunk(fresh).detach()
        cuts = {cut.batch_dim for cut in find_cuts(graph, shrunk, removed)}
        assert cuts == ({0} if not found else {0, 1})
        judge = Judge(graph, ImageSet(fresh, None, "none"))
        assert distil(graph, shrunk, removed, images, judge, block_steps=5, answer_steps=5)
        scores = [torch.from_numpy(signals.by_name[name].values) for name in signals.by_name]
        found.append([*scores, torch.from_numpy(errors), repaired])
        assert score_points(graph)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_layers_over_time_that_is_folded_around_the_images_are_repaired() -> None:
    class Frames(nn.Module):
        """Columns of the image as frames before the images, each through linear layers."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(24, 16), nn.Linear(16, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x.permute(3, 0, 1, 2).reshape(8 * x.shape[0], 24)).relu()
            return self.head(self.two(y).relu().reshape(8, x.shape[0], 12).mean(0))

    network = randomise(Frames(), 2)
    graph = build_unit_graph(network, (noise(2),))
    removed = random_removal(graph, 2, 0.3)
    shrunk = remove_units(graph, removed).module
    fresh = noise(100, seed=3)
    with torch.no_grad():
        wanted = network(fresh)
        before = (shrunk(fresh) - wanted).square().sum()
        summary = fit_least_squares(graph, shrunk, removed, noise(64))
        after = (shrunk(fresh) - wanted).square().sum()
    assert [fit.layer for fit in summary.layers] == ["one", "two", "head"]
    assert after < 0.5 * before
