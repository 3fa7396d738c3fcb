"""``fairdeploy compare``: results of several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli.options import Json
from fairdeploy.cli.output import show


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR...", help="Folders that shrink wrote.")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for comparison.html and comparison.json."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier comparison.")] = False,
    as_json: Json = False,
) -> None:
    """Put results of several runs side by side: cost, quality and speed, with their intervals."""
    from fairdeploy.cli.summaries.compare import compare_summary
    from fairdeploy.runs import compare as comparing

    document = comparing.compare(folders, output, force=force)
    show(document, compare_summary(document, output), as_json)
