"""``fairdeploy targets`` and ``fairdeploy doctor``: what works on this machine."""

from __future__ import annotations

import typer

from fairdeploy.cli_options import Json
from fairdeploy.cli_output import show


def targets(*, as_json: Json = False) -> None:
    """List the target profiles, and whether each is usable here."""
    from fairdeploy.doctor.standing import target_rows
    from fairdeploy.summary import targets_table

    rows = target_rows()
    show({"targets": rows}, targets_table(rows), as_json)


def doctor(*, as_json: Json = False) -> None:
    """Show versions and what works here; say what to install for what does not."""
    from fairdeploy.doctor.examination import examine
    from fairdeploy.doctor_summary import doctor_summary

    document = examine()
    show(document, doctor_summary(document), as_json)
    raise typer.Exit(1 if document["problems"] else 0)
