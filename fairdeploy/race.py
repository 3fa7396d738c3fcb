"""Races networks against the original on a target, through exported files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency import MIN_PAIRS, compare_latency
from fairdeploy.deployment.parity import repeated
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import LatencyComparison, TargetProfile, TensorNames

_SHORTER = 4


class Race:
    """The original, exported once, and what every race against it has in common."""

    def __init__(
        self,
        graph: UnitGraph,
        exporter: Exporter,
        profile: TargetProfile,
        inputs: tuple[Tensor, ...],
        names: TensorNames,
        *,
        seed: int,
        folder: Path,
    ) -> None:
        """Export the original into ``folder``, which has to stay while races are run.

        Args:
            inputs: Of the network, with at least one image; the profile's batch is made of them.
            names: As in the files that are raced.
        """
        self._graph, self._exporter, self._profile = graph, exporter, profile
        self._names, self._seed = names, seed
        batch = profile.batch if graph.has_dynamic_batch else graph.inputs.batch
        self._batch = tuple(tensor.numpy() for tensor in repeated(inputs, 0, batch))
        self._original = folder / f"original{exporter.file_suffix}"
        self._export(graph.module, self._original)

    def against_file(self, path: Path) -> LatencyComparison:
        """Race an exported file."""
        return compare_latency(
            lambda: self._exporter.open(self._original, self._profile),
            lambda: self._exporter.open(path, self._profile),
            self._batch,
            self._profile,
            seed=self._seed,
        )

    def against_network(self, shrunk: fx.GraphModule) -> LatencyComparison:
        """Race a network, whose file is gone afterwards."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"shrunk{self._exporter.file_suffix}"
            self._export(shrunk, path)
            return self.against_file(path)

    def _export(self, module: fx.GraphModule, path: Path) -> None:
        self._exporter.export(
            module, self._graph.example_inputs, path,
            dynamic_batch=self._graph.has_dynamic_batch, metadata={}, names=self._names,
        )  # fmt: skip


def shortened(profile: TargetProfile) -> TargetProfile:
    """The same target with a quarter of the time and twice the interval, for races in a row."""
    return replace(
        profile,
        warmup_seconds=profile.warmup_seconds / _SHORTER,
        max_seconds=profile.max_seconds / _SHORTER,
        min_pairs=MIN_PAIRS,
        ratio_interval=2 * profile.ratio_interval,
    )
