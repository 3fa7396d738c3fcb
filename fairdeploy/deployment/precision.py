"""Exporters that write in the precision of a target profile."""

from __future__ import annotations

import functools
from typing import cast

from fairdeploy.deployment.exporter_api import Exporter, Guarded, get_exporter
from fairdeploy.deployment.file_writing import export_through_onnx
from fairdeploy.errors import ExportError
from fairdeploy.records import TargetProfile


def exporter_for(profile: TargetProfile) -> Exporter:
    """The profile's exporter, which writes in the profile's precision.

    Raises:
        ExportError: It is not installed, its runtime is missing, or it lacks the precision.
    """
    exporter = get_exporter(profile.runtime)
    if profile.precision == "fp32":
        return exporter
    if profile.precision not in exporter.precisions:
        raise ExportError(
            f"target '{profile.name}' asks for precision '{profile.precision}', which the "
            f"exporter '{profile.runtime}' does not write; choose another target"
        )
    return cast(Exporter, _InPrecision(exporter, profile.precision))


class _InPrecision(Guarded):
    """An exporter that goes by way of ONNX, and there of another precision where it must."""

    def __init__(self, exporter: Exporter, precision: str) -> None:
        super().__init__(exporter, Exporter, f"exporter '{exporter.name}'")
        self.export = functools.partial(export_through_onnx, exporter, precision=precision)
