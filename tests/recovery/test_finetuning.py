from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError, OutputError
from fairdeploy.records import DataSplits, ImageSet, TrainingImages, TuningSummary
from fairdeploy.records.training import TuningOptions
from fairdeploy.recovery.training.finetuning import Pupil, finetune
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import Pair, noise, shrink, small_residual


def labelled(count: int, seed: int) -> ImageSet:
    """Which of five brightnesses an image has."""
    labels = torch.arange(count) % 5
    return ImageSet(noise(count, seed) * 0.3 + labels[:, None, None, None] - 2.0, labels, "given")


def training_of(images: ImageSet) -> TrainingImages:
    def fetch(places: np.ndarray) -> ImageSet:
        at = torch.from_numpy(places)
        labels = None if images.labels is None else images.labels[at]
        return ImageSet(images.images[at], labels, images.label_source)

    return TrainingImages(len(images), images.labels is not None, fetch)


def tune(
    pair: Pair, images: ImageSet, selection: ImageSet, seed: int = 0, **changes: Any
) -> TuningSummary:
    names = ("checkpoint", "progress")
    given = {name: changes.pop(name) for name in names if name in changes}
    options = TuningOptions(**({"epochs": 4, "batch_size": 20, "learning_rate": 0.05} | changes))
    pupil = Pupil(pair.graph, pair.shrunk, pair.removed)
    return finetune(pupil, splits(training_of(images), selection), options, seed=seed, **given)


def splits(training: TrainingImages | None, selection: ImageSet | None) -> DataSplits:
    return DataSplits(labelled(10, 3), None, None, "", "", selection=selection, training=training)


def accuracy(pair: Pair, images: ImageSet) -> float:
    with torch.no_grad():
        return float((pair.shrunk(images.images).argmax(1) == images.labels).float().mean())


def state(pair: Pair) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pair.shrunk.state_dict().items()}


def test_training_learns_the_labels_and_keeps_the_best_epoch() -> None:
    pair = shrink(small_residual(), 0.4)
    original = {name: t.clone() for name, t in pair.graph.module.state_dict().items()}
    selection = labelled(50, 2)
    summary = tune(pair, labelled(100, 1), selection, epochs=15)
    scores = {epoch.epoch: epoch.score for epoch in summary.epochs}
    assert scores[0] < 0.5 < max(scores.values())
    assert scores[summary.best_epoch] == max(scores.values())
    # What is left behind is the network of that epoch, in eval mode.
    assert accuracy(pair, selection) == pytest.approx(scores[summary.best_epoch])
    assert (summary.measure, summary.uses_labels, summary.teacher) == ("accuracy", True, "none")
    for name, tensor in pair.graph.module.state_dict().items():
        assert torch.equal(tensor, original[name]), name


def test_a_training_that_only_harms_leaves_the_network_as_it_was() -> None:
    pair = shrink(small_residual(), 0.4)
    good = tune(pair, labelled(100, 1), labelled(50, 2), epochs=15)
    before = state(pair)
    mislabelled = labelled(100, 1)
    wrong = ImageSet(mislabelled.images, (torch.arange(100) + 2) % 5, "given")
    summary = tune(pair, wrong, labelled(50, 2))
    assert summary.epochs[0].score == pytest.approx(good.epochs[good.best_epoch].score)
    assert summary.best_epoch == 0
    for name, tensor in state(pair).items():
        assert torch.equal(tensor, before[name]), name


class Normless(nn.Module):
    """Two layers and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_the_optimiser_and_its_rate_suit_the_kind_of_network() -> None:
    found = {}
    for module in (small_residual(), randomise(Normless(), 0)):
        pair = shrink(module, 0.4)
        summary = tune(pair, labelled(100, 1), labelled(50, 2), epochs=3, learning_rate=None)
        found[type(module).__name__] = (summary.optimizer, summary.learning_rate)
        losses = [epoch.loss for epoch in summary.epochs[1:]]
        assert losses[0] is not None
        assert losses[-1] is not None
        assert losses[-1] < losses[0]
    assert found == {"SmallResidual": ("SGD", 0.01), "Normless": ("AdamW", 0.0002)}
    assert tune(pair, labelled(20, 1), labelled(20, 2), learning_rate=0.02).learning_rate == 0.02


def test_it_stops_early_when_nothing_gets_better() -> None:
    pair = shrink(small_residual(), 0.4)
    summary = tune(pair, labelled(40, 1), labelled(20, 2), epochs=30, learning_rate=1e-9)
    assert len(summary.epochs) - 1 == 15
    assert summary.ended_because == "none of the last 15 epochs was better"


def test_without_labels_it_learns_the_originals_answers() -> None:
    pair = shrink(small_residual(), 0.4)
    selection = ImageSet(noise(100, 2), None, "none")
    images = ImageSet(noise(200, 1), None, "none")
    summary = tune(pair, images, selection, distill=True, learning_rate=0.02, epochs=5)
    assert (summary.measure, summary.uses_labels, summary.teacher) == ("agreement", False, "logits")
    losses = [epoch.loss for epoch in summary.epochs[1:]]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < 0.7 * losses[0]


def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    images, selection = labelled(60, 1), labelled(30, 2)
    whole, broken = shrink(small_residual(), 0.4), shrink(small_residual(), 0.4)
    tune(whole, images, selection)

    def interrupt(done: int, _total: int, _score: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        tune(broken, images, selection, checkpoint=file, progress=interrupt)
    assert file.exists()
    again = shrink(small_residual(), 0.4)
    summary = tune(again, images, selection, checkpoint=file)
    assert summary.resumed_from == 2
    assert [epoch.epoch for epoch in summary.epochs] == [0, 1, 2, 3, 4]
    assert not file.exists()
    for name, tensor in state(again).items():
        assert torch.equal(tensor, state(whole)[name]), name


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        *map(_without, ("network", "optimizer", "best", "history")),
        lambda content: content["network"].popitem(),
        lambda content: content["best"].update(dict.fromkeys(content["best"], torch.zeros(7))),
        lambda content: content["best"].update(more=torch.zeros(1)),
        lambda content: content.update(network=[1, 2]),
        lambda content: content.update(best_error=math.nan),
        lambda content: content.update(history=[{"epoch": 1}]),
        lambda content: content["optimizer"]["param_groups"].clear(),
        lambda content: content["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(5, 5)),
    ],
)
def test_a_checkpoint_that_lacks_or_mixes_something_is_not_gone_on_with(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    images, selection = labelled(40, 1), labelled(20, 2)
    file = tmp_path / "state.pt"

    def interrupt(_done: int, _total: int, _score: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(
            shrink(small_residual(), 0.4), images, selection, checkpoint=file,
            progress=interrupt,
        )  # fmt: skip
    content = torch.load(file)
    damage(content)
    torch.save(content, file)
    anew, fresh = shrink(small_residual(), 0.4), shrink(small_residual(), 0.4)
    summary = tune(anew, images, selection, epochs=1, checkpoint=file)
    assert summary.resumed_from == 0
    tune(fresh, images, selection, epochs=1)
    for name, tensor in state(anew).items():
        assert torch.equal(tensor, state(fresh)[name]), name


def _text(file: Path) -> None:
    file.write_bytes(b"not a checkpoint")


def _list(file: Path) -> None:
    torch.save([1, 2, 3], file)


@pytest.mark.parametrize("write", [_text, _list, os.mkfifo, Path.mkdir])
def test_what_is_no_checkpoint_is_not_gone_on_with(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    file = tmp_path / "state.pt"
    write(file)
    pair = shrink(small_residual(), 0.4)
    if file.is_dir():
        with pytest.raises(OutputError, match="cannot write the checkpoint"):
            tune(pair, labelled(20, 1), labelled(10, 2), epochs=1, checkpoint=file)
        return
    summary = tune(pair, labelled(20, 1), labelled(10, 2), epochs=1, checkpoint=file)
    assert summary.resumed_from == 0


def test_labels_or_a_teacher_are_needed() -> None:
    pair = shrink(small_residual(), 0.4)
    unlabelled = ImageSet(noise(10), None, "none")
    with pytest.raises(DataError, match="these have no labels; add --distill"):
        tune(pair, unlabelled, unlabelled)


def test_images_to_train_on_are_needed() -> None:
    pair = shrink(small_residual(), 0.4)
    pupil = Pupil(pair.graph, pair.shrunk, pair.removed)
    with pytest.raises(DataError, match="no images are left to train on"):
        finetune(pupil, splits(None, labelled(10, 2)), TuningOptions(epochs=1))
    with pytest.raises(DataError, match="no images are left to choose the best epoch with"):
        finetune(pupil, splits(training_of(labelled(10, 1)), None), TuningOptions(epochs=1))
