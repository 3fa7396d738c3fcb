"""``fairdeploy verify``: whether a folder still is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli.options import Json
from fairdeploy.cli.output import show


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that shrink or export wrote.")
    ],
    *,
    hashes_only: Annotated[
        bool, typer.Option("--hashes-only", help="Compare files with the manifest, run none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every file against the manifest, and the ONNX file against the network in torch."""
    from fairdeploy.cli.summaries.export import verify_summary
    from fairdeploy.runs import verify as verification

    found = verification.verify(folder, with_run=not hashes_only)
    document = found.document()
    show(document, verify_summary(document), as_json)
    if not found.passed:
        raise typer.Exit(1)
