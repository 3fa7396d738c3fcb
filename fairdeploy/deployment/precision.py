"""Exporters that write in the precision of a target profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from fairdeploy.deployment.conversion import GuardedConverter, converter_of
from fairdeploy.deployment.exporter_api import (
    Array,
    Exporter,
    GuardedExporter,
    OperatorProfiler,
    Runner,
    get_exporter,
    profiler_of,
)
from fairdeploy.deployment.file_writing import export_through_onnx
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, OperatorTime, TargetProfile, TensorNames


def exporter_for(profile: TargetProfile) -> Exporter:
    """The profile's exporter, which writes in the profile's precision.

    Raises:
        ExportError: It is not installed, its runtime is missing, or it lacks the precision.
    """
    exporter = get_exporter(profile.runtime)
    if profile.precision == "fp32":
        return exporter
    converter = converter_of(exporter)
    if converter is None or profile.precision not in converter.precisions:
        raise ExportError(
            f"target '{profile.name}' asks for precision '{profile.precision}', which the "
            f"exporter '{profile.runtime}' does not write; choose another target"
        )
    profiler = profiler_of(exporter)
    if profiler is None:
        return GuardedExporter(InPrecision(exporter, converter, profile.precision))
    timed = TimedInPrecision(exporter, converter, profile.precision, profiler)
    return GuardedExporter(timed)


@dataclass(frozen=True, slots=True)
class InPrecision:
    """An exporter that goes by way of ONNX, and there of another precision where it must."""

    exporter: Exporter
    converter: GuardedConverter
    precision: str

    @property
    def name(self) -> str:
        """Name of the exporter."""
        return self.exporter.name

    @property
    def file_suffix(self) -> str:
        """How its file names end."""
        return self.exporter.file_suffix

    def is_available(self) -> str | None:
        """What is missing."""
        return self.exporter.is_available()

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        """Write ``module`` in the precision, without calibration images.

        Raises:
            ExportError: As from each step.
        """
        return export_through_onnx(
            self.converter, module, example_inputs, path,
            dynamic_batch=dynamic_batch, metadata=metadata, names=names, precision=self.precision,
        )  # fmt: skip

    def open(self, path: Path, profile: TargetProfile) -> Runner:
        """Open a file."""
        return self.exporter.open(path, profile)


@dataclass(frozen=True, slots=True)
class TimedInPrecision(InPrecision):
    """The same of an exporter that times operators."""

    profiler: OperatorProfiler

    def operator_times(
        self,
        path: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """As the exporter does."""
        return self.profiler.operator_times(path, inputs, profile, num_runs=num_runs)
