"""Quality after each step, on the same images, for torch networks and files alike.

Where there are no labelled test images it is how much the network gives what the original gives.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.parity import predict, predict_all
from fairdeploy.errors import TaskError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    AccuracyEstimate,
    AnswerChanges,
    DataSplits,
    ImageSet,
    PairedDifference,
)
from fairdeploy.records.accuracy import Fidelity, SecondFigure
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.tasks.imitation import likeness

BATCH = 64
MAX_IMITATED = 256
MAX_IMITATED_BYTES = 2**28
"""Of what the original gives, which is held in memory."""
ORIGINAL = "original"
EXPORTED = "exported"


class _Imitated:
    """What the original gives for a few images, and how much others give that."""

    def __init__(self, graph: UnitGraph, data: DataSplits, images: ImageSet, name: str) -> None:
        self._graph, self._task = graph, graph.outputs.task.informed(data)
        self._batch = BATCH if graph.has_dynamic_batch else graph.inputs.batch
        tensors = graph.inputs.arranged(images)
        first = tuple(tensor[: self._batch] for tensor in tensors)
        size = sum(array.nbytes for array in self._outputs(graph.module, first)) // len(first[0])
        count = min(len(images), MAX_IMITATED, max(2, MAX_IMITATED_BYTES // max(size, 1)))
        places = torch.linspace(0, len(images) - 1, count).round().long()
        self._inputs = tuple(tensor[places] for tensor in tensors)
        self._wanted = self._outputs(graph.module, self._inputs)
        self.found = Fidelity(name, count, graph.outputs.names[graph.outputs.main], {})

    @classmethod
    def of(cls, graph: UnitGraph, data: DataSplits) -> _Imitated | None:
        """On images that nothing was fitted to; None where there are hardly any."""
        for name, images in (("test", data.test), ("selection", data.selection)):
            if images is not None and len(images) > 1 and not images.is_synthetic:
                return cls(graph, data, images, name)
        return None

    def add(self, step: str, network: Callable[..., object] | Runner) -> float:
        """Compare a network; the error of its main output."""
        outputs, told = self._graph.outputs, self.found
        found = self._outputs(network, self._inputs)
        told.by_step[step] = alike = likeness(
            found, self._wanted, outputs.names, outputs.main, self._task, told.num_images
        )
        errors = {row.output: row.error.value for row in alike.outputs}
        return errors.get(told.main_output, float("nan"))

    def _outputs(
        self, network: Callable[..., object] | Runner, inputs: tuple[Tensor, ...]
    ) -> tuple[NDArray[np.generic], ...]:
        is_fixed = not self._graph.has_dynamic_batch
        dims = self._graph.outputs.batch_dims
        return predict_all(network, inputs, self._batch, is_batch_fixed=is_fixed, batch_dims=dims)


class Evaluation:
    """Collects accuracy estimates by step name; without a labelled test set there are none."""

    def __init__(
        self,
        graph: UnitGraph,
        test: ImageSet | None,
        watch: Stopwatch,
        data: DataSplits | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            graph: Of the original.
            test: What is tested on.
            watch: Shows the stages.
            data: Where there are no labels networks are held to the original on its test images,
                or on those for selection; None: they are not.
        """
        self._test = test
        self._imitated = None
        if data is not None and (test is None or test.labels is None):
            self._imitated = _Imitated.of(graph, data)
        self._graph = graph
        self._watch = watch
        self._task = graph.outputs.task
        self._answers: dict[str, Tensor] = {}
        self.estimates: dict[str, AccuracyEstimate] = {}

    def add(self, step: str, network: Callable[..., object] | Runner) -> None:
        """Measure ``network`` on the test images."""
        if self._test is None or self._test.labels is None:
            if self._imitated is not None and step != ORIGINAL:
                with self._watch.stage(f"fidelity ({step})") as stage:
                    stage.note(f"error {self._imitated.add(step, network):.3g}")
            return
        with self._watch.stage(f"accuracy ({step})") as stage:
            answer = predict(
                network,
                self._graph.inputs.arranged(self._test),
                BATCH if self._graph.has_dynamic_batch else self._graph.inputs.batch,
                is_batch_fixed=not self._graph.has_dynamic_batch,
                main_output=self._graph.outputs.main,
                batch_dims=self._graph.outputs.batch_dims,
            )
            try:
                answers = self._task.kept(answer)
                estimate = self._task.quality(answers, self._test.labels)
            except TaskError as error:  # what was made so far shall not be lost for it
                self._watch.warn(f"accuracy ({step}) is not measured: {error}")
                return
            stage.note(f"{estimate.value:.2%}")
        self._warn_of_chance(step, estimate)
        self.estimates[step] = estimate
        self._answers[step] = answers

    def _warn_of_chance(self, step: str, estimate: AccuracyEstimate) -> None:
        """Say if the original is no better than one that always answers the same."""
        usual = self._task.baseline(self._targets()) if step == ORIGINAL else None
        if usual is not None and estimate.low <= usual:
            self._watch.warn(
                f"the original's {self._task.words.quality} is {estimate.value:.1%} on "
                f"{estimate.num_images} test images, and always answering the same would get "
                f"{usual:.1%}: check that the labels have the network's units and order and that "
                "the images are prepared as in training; until then the figures say nothing"
            )

    @property
    def fidelity(self) -> Fidelity | None:
        """How much each step gives what the original gives; None where accuracy is measured."""
        return self._imitated.found if self._imitated and self._imitated.found.by_step else None

    def second(self) -> SecondFigure | None:
        """The task's other figure after each step; None where it has none."""
        words, targets = self._task.second, None if self._test is None else self._test.labels
        if words is None or targets is None or ORIGINAL not in self._answers:
            return None
        original = self._answers[ORIGINAL]
        try:
            by_step = {
                step: self._task.second_quality(answers, targets)
                for step, answers in self._answers.items()
            }
            changes = {
                step: self._task.second_difference(original, answers, targets)
                for step, answers in self._answers.items()
                if step != ORIGINAL
            }
        except TaskError as error:
            self._watch.warn(f"{words.name} is not measured: {error}")
            return None
        return SecondFigure(words.name, words.unit, by_step, changes)

    def difference(self, step: str) -> PairedDifference | None:
        """The step's accuracy minus the original's; None where either was not measured."""
        if step not in self._answers or ORIGINAL not in self._answers:
            return None
        return self._compared(ORIGINAL, step)

    def final_difference(self) -> PairedDifference | None:
        """That of the exported file, or of the step that was measured last."""
        return self.difference(self._final())

    def changes(self) -> AnswerChanges | None:
        """How the answers changed with each step; None if nothing was compared."""
        steps = [step for step in self._answers if step != ORIGINAL]
        if ORIGINAL not in self._answers or not steps:
            return None
        original, last = self._answers[ORIGINAL], self._answers[self._final()]
        return AnswerChanges(
            {step: self._compared(ORIGINAL, step) for step in steps},
            {step: self._compared(before, step) for before, step in pairwise([ORIGINAL, *steps])},
            self._task.changes(original, last, self._targets()),
        )

    def answers(self, step: str) -> Tensor | None:
        """What the step answers, by test image; None where it was not measured."""
        return self._answers.get(step)

    def _compared(self, before: str, after: str) -> PairedDifference:
        return self._task.difference(self._answers[before], self._answers[after], self._targets())

    def _final(self) -> str:
        if EXPORTED in self._answers:
            return EXPORTED
        return next(reversed(self._answers), "")

    def _targets(self) -> Tensor:
        assert self._test is not None
        assert self._test.labels is not None
        return self._test.labels
