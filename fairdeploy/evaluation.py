"""Accuracy after each step, on the same test images, for torch networks and files alike."""

from __future__ import annotations

from collections.abc import Callable

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.parity import accuracy_from_predictions, predict
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import AccuracyEstimate, ImageSet
from fairdeploy.stopwatch import Stopwatch

BATCH = 64


class Evaluation:
    """Collects accuracy estimates by step name; without a labelled test set it does nothing."""

    def __init__(self, graph: UnitGraph, test: ImageSet | None, watch: Stopwatch) -> None:
        self._test = test
        self._graph = graph
        self._watch = watch
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
