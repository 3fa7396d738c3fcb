"""``fairdeploy inspect``: what can go, and what cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from fairdeploy.cli.flags import ControlFlags, with_flags
from fairdeploy.cli.options import Model
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import ParityError
from fairdeploy.settings.options import InspectOptions


@with_flags
def inspect(
    model: Model,
    *,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Remove about half of every group at random and prove it; needs no data. "
            "Exit code 4 if it fails.",
        ),
    ] = False,
    depth: Annotated[
        int | None,
        typer.Option(help="Levels of the module tree to show; as many as fit if not given.", min=0),
    ] = None,
    flags: ControlFlags,
) -> None:
    """Show what can be removed from a network, what cannot, and why."""
    options = InspectOptions(model=model, prove=prove, **flags.values())
    from fairdeploy.cli.summaries.inspect import inspection_summary
    from fairdeploy.runs import inspect as inspection

    document = inspection.inspect(options, progress_for(flags.as_json))
    show(document, inspection_summary(document, depth=depth), flags.as_json)
    if document["proof"] is not None and not document["proof"]["passed"]:
        raise typer.Exit(ParityError.exit_code)
