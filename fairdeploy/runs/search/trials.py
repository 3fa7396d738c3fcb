"""Files of candidate plans, raced against the original on the target.

The original and the smallest plan are exported. All other plans are written by a width template
made from these two (see ``deployment.resizing``). Where they have different nodes, because tracing
drops what does nothing at length 1, a plan halfway between is exported to make one. An exporter
without templates, or a network that has none, exports each plan. One whose runner opens the files
of another that has templates (see ``trial_exporter``) has those timed. Residual blocks that a plan
lacks are cut out of what the template writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.deployment.devices.local_device import Device, profiler_on
from fairdeploy.deployment.exporter_api import Exporter, WidthTemplate, offers, trial_exporter
from fairdeploy.errors import DeviceLostError, ExportError, MeasurementError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import BranchCut, LatencyComparison, TargetProfile, TensorNames, TimedPlan
from fairdeploy.runs.problem import Problem
from fairdeploy.runs.run import Run
from fairdeploy.settings.run import RunSettings
from fairdeploy.surgery.dimension_lengths import DimensionLengths
from fairdeploy.surgery.removal import remove_units

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrialSetting:
    """Where and how plans are timed."""

    graph: UnitGraph
    exporter: Exporter
    device: Device
    profile: TargetProfile
    names: TensorNames
    folder: Path
    """For the files; somebody else removes it."""
    seed: int


def trial_setting(run: Run[RunSettings], problem: Problem) -> TrialSetting:
    """Races on the device of a run, by the target of its problem."""
    return TrialSetting(
        problem.graph, run.exporter, run.device, problem.profile, problem.names, run.scratch,
        run.seed,
    )  # fmt: skip


class LatencyTrials:
    """Times plans against the original."""

    def __init__(self, setting: TrialSetting, smallest: Mask) -> None:
        """Export the original, the smallest plan, and that with all of its residual branches.

        Args:
            setting: Where and how.
            smallest: The units that go in the smallest plan, boolean [num_units].
        """
        self._setting = setting
        self._writer = trial_exporter(setting.exporter)
        graph, profile = setting.graph, setting.profile
        batch = profile.batch if graph.has_dynamic_batch else graph.inputs.batch
        generator = torch.Generator().manual_seed(setting.seed)
        self._inputs = tuple(x.numpy() for x in graph.inputs.random(batch, generator))
        self.original = self._export(graph.module, "original")
        self.smallest = self._export(remove_units(graph, smallest).module, "smallest")
        self.narrowest, narrowest = self.smallest, smallest
        if graph.branches_gone(smallest):
            narrowest = with_all_branches(graph, smallest)
            self.narrowest = self._export(remove_units(graph, narrowest).module, "narrowest")
        self._dims = DimensionLengths(graph)
        self._template = self._width_template(narrowest)
        self._num_races = 0

    def time_smallest(self) -> LatencyComparison:
        """Race the smallest plan."""
        return self._race(self.smallest)

    def node_times(self, file: Path) -> Mapping[str, float]:
        """Milliseconds by node in one of the exported files; empty if the runtime can't tell."""
        profiler = profiler_on(self._setting.device, self._setting.exporter)
        if profiler is None:
            return {}
        try:
            rows = profiler.operator_times(file, self._inputs, self._setting.profile)
        except DeviceLostError:
            raise
        except (ExportError, MeasurementError):
            return {}
        times: dict[str, float] = {}
        for row in rows:
            times[row.node] = times.get(row.node, 0.0) + row.median_ms
        return times

    def time(self, removed: Mask) -> TimedPlan:
        """Make the file without the marked units and race it.

        A cut file that cannot be run is exported instead, as are all after it.
        """
        if self._template is not None:
            try:
                return self._made_and_raced(removed, self._template)
            except DeviceLostError:
                raise
            except (ExportError, MeasurementError):
                self._template = None
        return self._made_and_raced(removed, None)

    def _made_and_raced(self, removed: Mask, template: WidthTemplate | None) -> TimedPlan:
        started = time.perf_counter()
        if template is None:
            module = remove_units(self._setting.graph, removed).module
            file = self._export(module, "candidate")
        else:
            file = self._setting.folder / f"candidate{self._writer.file_suffix}"
            gone = self._setting.graph.branches_gone(removed)
            cuts = tuple(BranchCut(branch.total, branch.nodes) for branch in gone)
            template.write(file, self._dims.lengths(removed), cuts)
        made = time.perf_counter()
        result = self._race(file).timed_plan
        finished = time.perf_counter()
        file.unlink()
        return replace(result, seconds_to_make=made - started, seconds_to_measure=finished - made)

    def _race(self, file: Path) -> LatencyComparison:
        self._num_races += 1
        return self._setting.device.compare(
            self.original,
            file,
            self._inputs,
            self._setting.profile,
            seed=self._setting.seed + self._num_races,
        )

    def _export(self, module: fx.GraphModule, name: str) -> Path:
        setting = self._setting
        file = setting.folder / f"{name}{self._writer.file_suffix}"
        self._writer.export(
            module, setting.graph.example_inputs, file,
            dynamic_batch=setting.graph.has_dynamic_batch, metadata={}, names=setting.names,
        )  # fmt: skip
        return file

    def _width_template(self, smallest: Mask) -> WidthTemplate | None:
        template = self._template_from(self.narrowest, smallest)
        if template is None and offers(self._writer, "width_template"):
            half = halfway(self._setting.graph, smallest)
            file = self._export(remove_units(self._setting.graph, half).module, "halfway")
            template = self._template_from(file, half)
        return template

    def _template_from(self, probe: Path, removed: Mask) -> WidthTemplate | None:
        return self._writer.width_template(
            self.original,
            probe,
            self._dims.network_dims(),
            (self._dims.lengths(np.zeros_like(removed)), self._dims.lengths(removed)),
        )


def with_all_branches(graph: UnitGraph, removed: Mask) -> Mask:
    """The same units, but no residual branch as a whole."""
    mask = removed.copy()
    mask[[branch.unit for branch in graph.branches]] = False
    return mask


def halfway(graph: UnitGraph, smallest: Mask) -> Mask:
    """Half of the units that go in the smallest plan, from each block of each group."""
    mask = np.zeros_like(smallest)
    for group in graph.groups:
        for block in group.blocks:
            gone = block[smallest[block]]
            mask[gone[: len(gone) // 2]] = True
    return mask
