"""A task of one's own: each room asks it, and none asks for classes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import (
    AccuracyEstimate,
    DataSplits,
    ImageSet,
    PairedDifference,
    TrainingImages,
    TuningOptions,
)
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.recovery.judgement import Judge
from fairdeploy.recovery.training.finetuning import Pupil, finetune
from fairdeploy.runs.progress import SilentProgress, Stopwatch
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.surgery.removal import remove_units
from fairdeploy.tasks.base import Task


class Regression(Task):
    """One number for each image, judged by how far it is off."""

    words: ClassVar[TaskWords] = TaskWords("regression", "error", "", is_higher_better=False)
    has_targets: ClassVar[bool] = True

    def own_targets(self, answer: Tensor) -> Tensor:
        return answer[:, 0]

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return (answer[:, 0] - targets).square().sum()

    def marks(self, answer: Tensor, targets: Tensor) -> Tensor:
        return -(answer[:, 0] - targets).abs().double()

    def quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        errors = -self.marks(answers, targets)
        half = float(1.96 * errors.std() / len(errors) ** 0.5)
        value = float(errors.mean())
        return AccuracyEstimate(value, value - half, value + half, len(errors))

    def difference(self, before: Tensor, after: Tensor, targets: Tensor) -> PairedDifference:
        gain = self.marks(after, targets) - self.marks(before, targets)
        return PairedDifference(float(gain.mean()), -1.0, 1.0, len(gain), 0, 0, len(gain))


@pytest.fixture
def graph() -> UnitGraph:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
    )
    found = build_unit_graph(network.eval(), (torch.zeros(2, 3, 8, 8),))
    return replace(found, outputs=replace(found.outputs, task=Regression()))


def images(count: int, seed: int, graph: UnitGraph) -> ImageSet:
    """Images whose targets are what the network gives, a little off."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 8, 8, generator=generator)
    with torch.no_grad():
        answers = graph.module(pixels)
    return ImageSet(pixels, answers.flatten() + 0.01, "given")


def test_a_task_of_ones_own_is_scored_judged_trained_and_measured(graph: UnitGraph) -> None:
    learned, held_out = images(64, 1, graph), images(32, 2, graph)
    scores = score_units(graph, learned, seed=0)
    assert (scores.r > 0).any()
    assert scores.num_classes == 2  # halves

    judge = Judge(graph, held_out)
    assert judge.measure == "accuracy"
    assert judge.answers(graph.module).value == pytest.approx(-0.01, abs=1e-5)

    removed = np.zeros(graph.num_units, dtype=np.bool_)
    removed[:4] = True
    shrunk = copy.deepcopy(remove_units(graph, removed).module)
    training = TrainingImages(64, True, lambda at: learned.part(torch.from_numpy(at)))
    options = TuningOptions(epochs=6, batch_size=16, learning_rate=0.01)
    data = DataSplits(learned, None, None, "", "", selection=held_out, training=training)
    summary = finetune(Pupil(graph, shrunk, removed), data, options)
    assert summary.verdict.is_taken
    assert summary.verdict.after > summary.verdict.before

    evaluation = Evaluation(graph, held_out, Stopwatch(SilentProgress()))
    evaluation.add("original", graph.module)
    evaluation.add("tuned", shrunk)
    assert evaluation.estimates["original"].value == pytest.approx(0.01, abs=1e-5)
    difference = evaluation.difference("tuned")
    assert difference is not None
    assert difference.value == pytest.approx(0.01 + summary.verdict.after, abs=1e-4)
