"""Where files are raced, and their operators timed: a device, of which this machine is one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from fairdeploy.deployment.exporter_api import Array, Exporter, offers
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.records import LatencyComparison, OperatorTime, TargetProfile


class Device(Protocol):
    """Runs two files in turn."""

    def compare(
        self,
        original: Path,
        shrunk: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        seed: int,
        decide_ratio: float | None = None,
    ) -> LatencyComparison:
        """Race two files on one batch; see ``latency.compare_latency``.

        Raises:
            DeviceLostError: The device stopped answering.
        """


@runtime_checkable
class OperatorProfiler(Protocol):
    """What tells how long each operator takes: an exporter here, or another device itself."""

    def operator_times(
        self,
        path: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """See ``Exporter.operator_times``."""


class LocalDevice:
    """This machine, through an exporter's runner."""

    def __init__(self, exporter: Exporter) -> None:
        """Open files with ``exporter``."""
        self._exporter = exporter

    def compare(
        self,
        original: Path,
        shrunk: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        seed: int,
        decide_ratio: float | None = None,
    ) -> LatencyComparison:
        """Race two files on one batch in this process."""
        return compare_latency(
            lambda: self._exporter.open(original, profile),
            lambda: self._exporter.open(shrunk, profile),
            inputs,
            profile,
            seed=seed,
            decide_ratio=decide_ratio,
        )


def profiler_on(device: Device, exporter: Exporter) -> OperatorProfiler | None:
    """What times single operators on the device: itself, or here the exporter; None if nothing."""
    if isinstance(device, LocalDevice):
        return exporter if offers(exporter, "operator_times") else None
    return device if isinstance(device, OperatorProfiler) else None
