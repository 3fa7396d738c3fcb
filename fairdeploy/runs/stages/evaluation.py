"""Accuracy after each step, on the same images, for torch networks and files alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.paired_accuracy import class_changes, paired_difference
from fairdeploy.deployment.parity import accuracy_from_predictions, predict
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
        self._classes: dict[str, NDArray[np.int64]] = {}
        self.estimates: dict[str, AccuracyEstimate] = {}

    def add(self, step: str, network: Callable[..., object] | Runner) -> None:
        """Measure ``network`` on the test images."""
        if self._test is None or self._test.labels is None:
            return
        with self._watch.stage(f"accuracy ({step})") as stage:
            logits = predict(
                network,
                self._graph.inputs.arranged(self._test),
                BATCH if self._graph.has_dynamic_batch else self._graph.inputs.batch,
                is_batch_fixed=not self._graph.has_dynamic_batch,
                main_output=self._graph.outputs.main,
            )
            estimate = accuracy_from_predictions(logits, self._test.labels)
            stage.note(f"{estimate.value:.2%}")
        self.estimates[step] = estimate
        self._classes[step] = logits.argmax(1).numpy()

    def difference(self, step: str) -> PairedDifference | None:
        """The step's accuracy minus the original's; None where either was not measured."""
        if step not in self._classes or ORIGINAL not in self._classes:
            return None
        return paired_difference(self._classes[ORIGINAL], self._classes[step], self._labels())

    def final_difference(self) -> PairedDifference | None:
        """That of the exported file, or of the step that was measured last."""
        return self.difference(self._final())

    def changes(self) -> AnswerChanges | None:
        """How the answers changed with each step; None if nothing was compared."""
        steps = [step for step in self._classes if step != ORIGINAL]
        if ORIGINAL not in self._classes or not steps:
            return None
        original, last = self._classes[ORIGINAL], self._classes[self._final()]
        labels, found = self._labels(), self._classes
        return AnswerChanges(
            {step: paired_difference(original, found[step], labels) for step in steps},
            {
                step: paired_difference(found[before], found[step], labels)
                for before, step in pairwise([ORIGINAL, *steps])
            },
            class_changes(original, last, labels),
        )

    def classes(self, step: str) -> tuple[int, ...] | None:
        """What the step answers, by test image; None where it was not measured."""
        found = self._classes.get(step)
        return None if found is None else tuple(found.tolist())

    def _final(self) -> str:
        if EXPORTED in self._classes:
            return EXPORTED
        return next(reversed(self._classes), "")

    def _labels(self) -> NDArray[np.int64]:
        assert self._test is not None
        assert self._test.labels is not None
        labels: NDArray[np.int64] = self._test.labels.numpy()
        return labels
