"""``fairdeploy targets`` and ``fairdeploy doctor``: what works on this machine."""

from __future__ import annotations

import typer

from fairdeploy.cli.options import Json
from fairdeploy.cli.output import show


def targets(*, as_json: Json = False) -> None:
    """List the target profiles, and whether each is usable here."""
    from fairdeploy.cli.summaries.shrink import targets_table
    from fairdeploy.runs.doctor.standing import target_rows

    rows = target_rows()
    show({"targets": rows}, targets_table(rows), as_json)


def doctor(*, as_json: Json = False) -> None:
    """Show versions and what works here; say what to install for what does not."""
    from fairdeploy.cli.summaries.doctor import doctor_summary
    from fairdeploy.runs.doctor.examination import examine

    document = examine()
    show(document, doctor_summary(document), as_json)
    raise typer.Exit(1 if document["problems"] else 0)
