from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring import readers
from fairdeploy.scoring import reconstructability as elimination
from fairdeploy.scoring.reconstructability import reconstruction_scores
from tests.random_networks import RandomNetwork, randomise
from tests.recovery.shrunk_networks import small_residual


def images(count: int = 60) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randn(count, 3, 8, 8, generator=generator), None, "given")


def scores_of(module: nn.Module, tensor: str) -> np.ndarray:
    """Scores of the units that are the rows of a weight."""
    graph = build_unit_graph(module, (images(2).images,))
    scores, is_read = reconstruction_scores(graph, images(), seed=0)
    units = graph.tensor_units[tensor][0]
    assert is_read[units].all()
    return scores[units]


@pytest.mark.parametrize("max_patch_numbers", [1_152, 0])
def test_a_copy_and_an_unread_channel_are_cheap_and_their_layer_averages_one(
    monkeypatch: pytest.MonkeyPatch, max_patch_numbers: int
) -> None:
    monkeypatch.setattr(readers, "MAX_PATCH_NUMBERS", max_patch_numbers)
    monkeypatch.setattr(elimination, "DAMPING", 1e-9)
    module = small_residual()
    with torch.no_grad():
        for tensor in (module.conv1.weight, *module.norm1.state_dict().values()):
            if tensor.dim() > 0:
                tensor[3] = tensor[7]
        module.conv2.weight[:, 5] = 0
    scores = scores_of(module, "conv1.weight")
    assert scores.mean() == pytest.approx(1.0)
    assert scores[5] == pytest.approx(0, abs=1e-6)
    ordered = np.sort(scores)
    added = np.diff(ordered, prepend=0.0)[np.searchsorted(ordered, scores)]
    # One copy goes for next to nothing, the other then costs what any channel does.
    first, second = sorted((3, 7), key=lambda unit: float(scores[unit]))
    assert added[first] < 0.02 * added[second]


def test_the_norm_after_the_reader_says_what_its_outputs_weigh() -> None:
    module = small_residual()
    with torch.no_grad():
        # Output 0 alone reads channel 4, and the norm all but wipes it out.
        module.conv2.weight[:, 4] = 0
        module.conv2.weight[0, 4] = 5
        module.norm2.weight[0] = 1e-4
    assert np.argmin(scores_of(module, "conv1.weight")) == 4


def test_labels_do_not_matter_and_equal_seeds_give_equal_scores() -> None:
    module = small_residual()
    graph = build_unit_graph(module, (images(2).images,))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = images()
    labelled = ImageSet(plain.images, torch.arange(60) % 5, "given")
    told: list[int] = []
    first, _ = reconstruction_scores(graph, plain, seed=1, progress=told.append)
    second, _ = reconstruction_scores(graph, labelled, seed=1)
    assert np.array_equal(first, second)
    assert sum(told) == 60
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["grouped", "attention", "dense", "depthwise", "shuffle", "gated"])
def test_each_way_of_tying_channels_is_scored(kind: str) -> None:
    network = RandomNetwork((kind, "plain"), (4, 4), flatten=True)
    graph = build_unit_graph(randomise(network, 1), network.examples())
    scores, is_read = reconstruction_scores(graph, images(), seed=0)
    assert is_read.all()
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    for group in graph.groups:
        assert scores[group.units].mean() == pytest.approx(1.0)


def test_units_that_no_layer_reads_are_told_apart() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.second = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.first(x) * self.second(x)).sum((1, 2, 3))[:, None].expand(-1, 3)

    graph = build_unit_graph(Ends().eval(), (images(2).images,))
    scores, is_read = reconstruction_scores(graph, images(), seed=0)
    assert graph.num_units > 0
    assert not is_read.any()
    assert not scores.any()


def test_no_images_are_refused() -> None:
    graph = build_unit_graph(small_residual(), (images(2).images,))
    with pytest.raises(DataError, match="no images to score with"):
        reconstruction_scores(graph, images(0), seed=0)
