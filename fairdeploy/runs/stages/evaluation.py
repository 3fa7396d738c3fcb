"""Quality after each step, on the same images, for torch networks and files alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.parity import predict
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import AccuracyEstimate, AnswerChanges, ImageSet, PairedDifference
from fairdeploy.runs.progress import Stopwatch

BATCH = 64
ORIGINAL = "original"
EXPORTED = "exported"


class Evaluation:
    """Collects accuracy estimates by step name; without a labelled test set it does nothing."""

    def __init__(self, graph: UnitGraph, test: ImageSet | None, watch: Stopwatch) -> None:
        self._test = test
        self._graph = graph
        self._watch = watch
        self._task = graph.outputs.task
        self._answers: dict[str, Tensor] = {}
        self.estimates: dict[str, AccuracyEstimate] = {}

    def add(self, step: str, network: Callable[..., object] | Runner) -> None:
        """Measure ``network`` on the test images."""
        if self._test is None or self._test.labels is None:
            return
        with self._watch.stage(f"accuracy ({step})") as stage:
            answer = predict(
                network,
                self._graph.inputs.arranged(self._test),
                BATCH if self._graph.has_dynamic_batch else self._graph.inputs.batch,
                is_batch_fixed=not self._graph.has_dynamic_batch,
                main_output=self._graph.outputs.main,
            )
            answers = self._task.kept(answer)
            estimate = self._task.quality(answers, self._test.labels)
            stage.note(f"{estimate.value:.2%}")
        self.estimates[step] = estimate
        self._answers[step] = answers

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
