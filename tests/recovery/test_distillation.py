from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.records import ImageSet, TrainingImages
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.judgement import Judge
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.training import distillation
from fairdeploy.recovery.training.distillation import distil, macs_without
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import (
    Pair,
    SmallResidual,
    noise,
    shrink,
    with_varied_answers,
)


def distance(pair: Pair, seed: int = 9) -> float:
    """Squared error of the output on fresh images, as a share of the original's variation."""
    images = noise(200, seed)
    with torch.no_grad():
        wanted, got = pair.graph.module(images), pair.shrunk(images)
    return float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def repaired(share: float = 0.5) -> Pair:
    pair = shrink(with_varied_answers(), share)
    fit_least_squares(pair.graph, pair.shrunk, pair.removed, noise(112))
    return pair


def judge(pair: Pair, count: int = 400) -> Judge:
    return Judge(pair.graph, ImageSet(noise(count, seed=5), None, "none"))


def test_distillation_brings_unseen_outputs_closer_after_least_squares() -> None:
    pair = repaired()
    before = distance(pair)
    summary = distil(
        pair.graph, pair.shrunk, pair.removed, noise(112), judge(pair, 2000),
        block_steps=40, answer_steps=160,
    )  # fmt: skip
    assert summary is not None
    assert summary.verdict.outcome == "improved"
    assert summary.verdict.after > summary.verdict.before + summary.verdict.low > 0
    assert distance(pair) < before
    assert (summary.num_blocks, summary.num_steps) == (3, 200)
    assert (summary.num_images, summary.verdict.num_images) == (112, 2000)


class Maps(SmallResidual):
    """The same without a classifier."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps, [N, 8, 8, 8]."""
        x = self.stem_norm(self.stem(x)).relu()
        return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()


@pytest.mark.parametrize(("blocks", "answers"), [(80, 0), (0, 80)])
def test_each_phase_alone_helps_a_network_that_was_not_repaired(blocks: int, answers: int) -> None:
    pair = shrink(randomise(Maps(), 0), 0.5)
    summary = distil(
        pair.graph, pair.shrunk, pair.removed, noise(112), judge(pair, 100),
        block_steps=blocks, answer_steps=answers,
    )  # fmt: skip
    assert summary is not None
    assert (summary.verdict.measure, summary.verdict.outcome) == ("error", "improved")
    assert summary.verdict.after < summary.verdict.before
    assert summary.num_steps == 80


@pytest.mark.parametrize("answer_steps", [0, 3])
@pytest.mark.parametrize("rate", ["LOW_RATE", "SGD_RATE"])
def test_a_result_that_is_worse_on_selection_images_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, rate: str, answer_steps: int
) -> None:
    pair = repaired()
    before = {name: tensor.clone() for name, tensor in pair.shrunk.state_dict().items()}
    monkeypatch.setattr(distillation, rate, 100.0)
    if rate == "SGD_RATE":  # norms learn too
        monkeypatch.setattr(distillation, "ENOUGH_IMAGES", 1)
    summary = distil(
        pair.graph,
        pair.shrunk,
        pair.removed,
        noise(56),
        judge(pair),
        block_steps=3,
        answer_steps=answer_steps,
    )
    assert summary is not None
    assert summary.verdict.outcome == "kept"
    assert summary.verdict.after == summary.verdict.before
    for name, tensor in pair.shrunk.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_original_and_statistics_stay_and_equal_seeds_give_equal_weights() -> None:
    first, second = repaired(), repaired()
    original = {name: t.clone() for name, t in first.graph.module.state_dict().items()}
    buffers = {name: t.clone() for name, t in first.shrunk.named_buffers()}
    for pair in (first, second):
        distil(
            pair.graph, pair.shrunk, pair.removed, noise(56), judge(pair), seed=5,
            block_steps=10, answer_steps=10,
        )  # fmt: skip
    for name, tensor in first.graph.module.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    for name, tensor in first.shrunk.named_buffers():
        assert torch.equal(tensor, buffers[name]), name
    for name, tensor in first.shrunk.state_dict().items():
        assert torch.equal(tensor, second.shrunk.state_dict()[name]), name
    assert not any(p.grad is not None for p in first.shrunk.parameters())


def test_too_few_images_to_learn_from_change_nothing() -> None:
    pair = repaired()
    assert distil(pair.graph, pair.shrunk, pair.removed, noise(6), judge(pair)) is None


def test_steps_grow_fewer_with_the_size_of_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = repaired()
    # 3x3 from 3 to 8, 8 to 12 and 12 to 8 channels on 64 pixels, and 8 by 5.
    original = 64 * 9 * (3 * 8 + 8 * 12 + 12 * 8) + 40
    nothing = np.zeros_like(pair.removed)
    assert macs_without(pair.graph, nothing) == original
    stem, inner = (
        pair.shrunk.get_parameter(f"{name}.weight").shape[0] for name in ("stem", "conv1")
    )
    shrunk = 64 * 9 * (3 * stem + 2 * stem * inner) + stem * 5
    assert macs_without(pair.graph, pair.removed) == shrunk < original
    monkeypatch.setattr(distillation, "MAX_MACS", 56 * (original + 3 * shrunk) * 50)
    summary = distil(
        pair.graph,
        pair.shrunk,
        pair.removed,
        noise(56),
        judge(pair),
        block_steps=40,
        answer_steps=60,
    )
    assert summary is not None
    assert summary.num_steps == 20 + 30


def fresh_images(count: int) -> TrainingImages:
    images = noise(count, seed=77)

    def fetch(places: NDArray[np.int64]) -> ImageSet:
        return ImageSet(images[places], None, "none")

    return TrainingImages(count, False, fetch)


def with_true_statistics(pair: Pair) -> Pair:
    """The original's norms have the statistics of the images, as if it were trained on them."""
    reestimate_batchnorm(pair.graph.module, (noise(512, seed=3),))
    with torch.no_grad():  # with each class for some images, as before
        logits = pair.graph.module(noise(200, seed=4))
        pair.graph.module.get_parameter("head.bias").sub_(logits.mean(0))
    return Pair(pair.graph, pair.removed, remove_units(pair.graph, pair.removed).module)


def test_many_images_let_norms_learn_and_bring_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "ENOUGH_IMAGES", 500)
    monkeypatch.setattr(distillation, "SGD_RATE", 0.003)
    distances = {}
    for count in (0, 1_000):
        pair = with_true_statistics(shrink(with_varied_answers(), 0.5))
        images = noise(56)
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, images)
        before = pair.shrunk.get_buffer("norm1.running_mean").clone()
        original = {name: t.clone() for name, t in pair.graph.module.state_dict().items()}
        more = fresh_images(count) if count else None
        summary = distil(
            pair.graph, pair.shrunk, pair.removed, images, judge(pair), more=more,
            block_steps=40, answer_steps=160,
        )  # fmt: skip
        assert summary is not None
        assert summary.num_images == 56 + count
        assert summary.verdict.is_taken
        distances[count] = distance(pair)
        after = pair.shrunk.get_buffer("norm1.running_mean")
        assert torch.equal(after, before) == (count == 0)
        assert not pair.shrunk.training
        for name, tensor in pair.graph.module.state_dict().items():
            assert torch.equal(tensor, original[name]), name
    assert distances[1_000] < distances[0]
