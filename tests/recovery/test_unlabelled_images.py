from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet, TrainingImages
from fairdeploy.recovery.training import unlabelled_images
from fairdeploy.recovery.training.unlabelled_images import UnlabelledImages
from tests.recovery.shrunk_networks import noise, small_residual


def images_of(tensor: Tensor, batch: int, seed: int = 0) -> UnlabelledImages:
    graph = build_unit_graph(small_residual(), (noise(2),))
    return UnlabelledImages(graph, (tensor,), seed, batch)


def test_batches_are_full() -> None:
    chosen = list(itertools.islice(images_of(torch.zeros(40, 3, 8, 8), 16).batches(), 5))
    assert [len(batch) for (batch,) in chosen] == [16] * 5


def test_equal_seeds_give_equal_batches() -> None:
    batches = [next(images_of(noise(40), 8, seed).batches())[0] for seed in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def further(count: int, kept: Callable[[int], bool] = lambda place: True) -> TrainingImages:
    """Images that say their place everywhere, from 1,000; some are left out as copies."""

    def fetch(places: NDArray[np.int64]) -> ImageSet:
        values = torch.tensor([1000.0 + place for place in places.tolist() if kept(place)])
        return ImageSet(values[:, None, None, None].expand(-1, 3, 8, 8), None, "none")

    return TrainingImages(count, False, fetch)


def with_further(more: TrainingImages, batch: int = 16) -> UnlabelledImages:
    graph = build_unit_graph(small_residual(), (noise(2),))
    return UnlabelledImages(graph, (torch.zeros(40, 3, 8, 8),), 0, batch, more)


def test_a_round_holds_every_image_that_is_learned_from_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unlabelled_images, "ENOUGH_IMAGES", 1)  # nothing is blended
    images = with_further(further(56))
    assert images.num_images == 40 + 56
    batches = list(itertools.islice(images.batches(), 6))
    seen = torch.cat([batch[:, 0, 0, 0] for (batch,) in batches]).tolist()
    assert sorted(seen) == [0.0] * 40 + [1000.0 + place for place in range(56)]


def test_batches_stay_full_where_copies_of_held_out_images_are_left_out() -> None:
    images = with_further(further(100, kept=lambda place: place % 2 == 0))
    for (batch,) in itertools.islice(images.batches(), 8):
        assert batch.shape == (16, 3, 8, 8)


def test_a_batch_of_nothing_but_copies_is_made_of_calibration_images() -> None:
    images = with_further(further(2_000, kept=lambda place: False), batch=4)
    for (batch,) in itertools.islice(images.batches(), 8):
        assert batch.shape == (4, 3, 8, 8)
        assert float(batch.abs().max()) == 0.0
