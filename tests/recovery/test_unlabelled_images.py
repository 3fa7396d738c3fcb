from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.recovery.unlabelled_images import NUM_VIEWS, UnlabelledImages, not_held_out
from tests.recovery.shrunk_networks import noise, small_residual


def images_of(tensor: Tensor, batch: int, seed: int = 0) -> UnlabelledImages:
    graph = build_unit_graph(small_residual(), (noise(2),))
    return UnlabelledImages(graph, (tensor,), seed, batch)


def test_what_is_held_out_is_every_eighth_image_and_no_earlier_repair_sees_it() -> None:
    (kept,) = not_held_out((torch.arange(20),))
    assert kept.tolist() == [i for i in range(20) if i not in (7, 15)]


def test_held_out_images_are_seen_as_they_are_and_moved_and_always_the_same() -> None:
    tensor = noise(40)
    first, second = (
        torch.cat([part for (part,) in images_of(tensor, 3, seed).views()]) for seed in (1, 2)
    )
    assert torch.equal(first, second)
    assert len(first) == 5 * NUM_VIEWS
    assert torch.equal(first[:5], tensor[[7, 15, 23, 31, 39]])
    assert not torch.equal(first[5:10], first[:5])


def test_batches_are_full_and_no_held_out_image_is_in_them() -> None:
    # Moved or blended, images of zeros stay what they are.
    tensor = torch.zeros(40, 3, 8, 8)
    tensor[7::8] = 1.0
    chosen = list(itertools.islice(images_of(tensor, 16).batches(), 5))
    assert [len(batch) for (batch,) in chosen] == [16] * 5
    assert all(float(batch.abs().max()) == 0.0 for (batch,) in chosen)


def test_equal_seeds_give_equal_batches() -> None:
    batches = [next(images_of(noise(40), 8, seed).batches())[0] for seed in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
