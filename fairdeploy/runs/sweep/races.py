"""Races of a sweep: shorter than those of ``shrink``, because there are many in a row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fairdeploy.deployment.devices.local_device import LocalDevice
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import GroupScores, LoadedModel, TargetProfile
from fairdeploy.runs.search.trials import LatencyTrials, TrialSetting
from fairdeploy.runs.stages.delivery import tensor_names
from fairdeploy.runs.stages.groups import smallest_plan_units
from fairdeploy.runs.stopwatch import Stopwatch

_SHORTER = 4


def shortened(profile: TargetProfile) -> TargetProfile:
    """The same target with a quarter of the time for a race, and none with pauses."""
    return replace(
        profile,
        warmup_seconds=profile.warmup_seconds / _SHORTER,
        max_seconds=profile.max_seconds / _SHORTER,
        idle_gap_ms=None,
    )


@contextmanager
def latency_trials(
    exporter: Exporter | None,
    model: LoadedModel,
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    profile: TargetProfile,
    *,
    seed: int,
    watch: Stopwatch,
) -> Iterator[LatencyTrials | None]:
    """Races against the original for as long as the block runs; None without an exporter.

    Args:
        exporter: Writes and opens the files.
        model: The network.
        graph: Its graph.
        groups: With their caps and steps; their scores do not matter.
        profile: With the limits that races shall have.
        seed: Of inputs and races.
        watch: Shows the export.
    """
    if exporter is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with watch.stage("export both ends"):
            setting = TrialSetting(
                graph, exporter, LocalDevice(exporter), profile,
                tensor_names(graph, bool(model.inputs)), Path(folder), seed,
            )  # fmt: skip
            trials = LatencyTrials(setting, smallest_plan_units(graph, groups))
        yield trials
