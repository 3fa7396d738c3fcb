"""``fairdeploy inspect``: what can go, and what cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from fairdeploy.cli.flags import with_options
from fairdeploy.cli.options import Json
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import ParityError
from fairdeploy.settings.options import InspectOptions


@with_options
def inspect(
    options: InspectOptions,
    *,
    depth: Annotated[
        int | None,
        typer.Option(help="Levels of the module tree to show; as many as fit if not given.", min=0),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what can be removed from a network, what cannot, and why."""
    from fairdeploy.cli.summaries.inspect import inspection_summary
    from fairdeploy.runs import inspect as inspection

    document = inspection.inspect(options, progress_for(as_json))
    show(document, inspection_summary(document, depth=depth), as_json)
    if document["proof"] is not None and not document["proof"]["passed"]:
        raise typer.Exit(ParityError.exit_code)
