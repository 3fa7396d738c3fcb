"""Operator times that were measured on another device: from its answer to records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fairdeploy.deployment.exporter_api import Exporter, GuardedExporter, guarded
from fairdeploy.errors import ExportError, MeasurementError
from fairdeploy.records import OperatorTime


@runtime_checkable
class ReadsDeviceProfiles(Protocol):
    """What an exporter may do besides: say which nodes the operators are that a device timed."""

    def told_operator_times(self, path: Path, told: Mapping[str, Any]) -> tuple[OperatorTime, ...]:
        """Operators in the order in which they run.

        Args:
            path: The file that the device was sent.
            told: What the exporter's own device script says of it.
        """


def operator_times_from(text: str, path: Path, exporter: Exporter) -> tuple[OperatorTime, ...]:
    """What a device printed for a job with ``profiled_runs``.

    Raises:
        ExportError: The exporter has no way to read it.
        MeasurementError: It is no answer of ours.
    """
    inner = exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
    if not isinstance(inner, ReadsDeviceProfiles):
        raise ExportError(f"exporter '{exporter.name}' cannot time operators on another device")
    try:
        (told,) = json.loads(text)["operators"]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"the device's operator times cannot be read ({type(error).__name__}: {error}); they "
            f"begin with {text[:60]!r}"
        ) from error
    with guarded(f"the device's operator times of '{path.name}' make no sense"):
        return inner.told_operator_times(path, told)
