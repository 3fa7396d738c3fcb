"""What the exporters and the target profiles say about this machine; imports torch and plug-ins."""

from __future__ import annotations

from typing import Any

from fairdeploy.deployment.exporter_api import Exporter, load_exporters, unusable_because
from fairdeploy.errors import FairdeployError
from fairdeploy.settings.target_profiles import list_profiles


def standing() -> dict[str, Any]:
    """``exporters``: what is missing by name, None where nothing is; ``targets``: the profiles."""
    exporters = load_exporters()
    return {
        "exporters": {name: _missing(exporter) for name, exporter in exporters.items()},
        "targets": target_rows(),
    }


def target_rows() -> list[dict[str, Any]]:
    """One row for each shipped profile; ``problem`` is null where it is usable."""
    exporters = load_exporters()
    rows = []
    for profile in list_profiles():
        problem = unusable_because(profile, exporters)
        rows.append({"name": profile.name, "description": profile.description, "problem": problem})
    return rows


def _missing(exporter: Exporter) -> str | None:
    try:
        return exporter.is_available()
    except FairdeployError as error:
        return str(error)
