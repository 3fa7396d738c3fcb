"""Whether a target profile can be served on this machine, as its exporter knows it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from fairdeploy.deployment.exporter_api import Exporter, GuardedExporter, guarded
from fairdeploy.errors import ExportError
from fairdeploy.records import TargetProfile


@runtime_checkable
class JudgesProfiles(Protocol):
    """What an exporter may do besides: tell whether it can serve a target profile here."""

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if files for this profile can be written and run here, else what is in the way."""


def unusable_because(profile: TargetProfile, exporters: Mapping[str, Exporter]) -> str | None:
    """Why ``profile`` cannot be served on this machine, None if it can.

    An exporter that does not judge profiles is taken to serve all.
    """
    exporter = exporters.get(profile.runtime)
    if exporter is None:
        return f"no exporter '{profile.runtime}' is installed"
    here = platform.machine()
    if profile.machine not in (None, here):
        return f"it is an {profile.machine} device and this is {here}; measure there, with --host"
    inner = exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
    try:
        missing = exporter.is_available()
        with guarded(f"exporter '{exporter.name}' failed"):
            if missing is None and isinstance(inner, JudgesProfiles):
                return inner.unusable_because(profile)
    except ExportError as error:
        return str(error)
    return missing
