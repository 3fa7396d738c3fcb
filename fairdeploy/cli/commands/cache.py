"""``fairdeploy cache``: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from fairdeploy.cli.options import Json
from fairdeploy.cli.output import show
from fairdeploy.cli.summaries.tables import two_columns
from fairdeploy.files import cache_entries, cache_folder, clear_cache
from fairdeploy.reporting.quantities import plural, size


class Action(StrEnum):
    """What to do with it."""

    LIST = "list"
    CLEAR = "clear"


def cache(
    action: Annotated[
        Action, typer.Argument(metavar="[list|clear]", help="Show it, or remove all of it.")
    ] = Action.LIST,
    *,
    as_json: Json = False,
) -> None:
    """List scores, sweeps and interrupted trainings that are kept between runs, or clear them."""
    folder = cache_folder()
    is_cleared = action is Action.CLEAR
    entries = clear_cache(folder) if is_cleared else cache_entries(folder)
    document = {
        "schema_version": 1,
        "folder": str(folder),
        "cleared": is_cleared,
        "entries": [asdict(entry) for entry in entries],
    }
    lines = [
        (entry.kind, f"{plural(entry.num_files, 'file')}, {size(entry.size_bytes)}")
        for entry in entries
        if entry.num_files
    ]
    title = ("removed from" if is_cleared else "kept in", escape(str(folder)))
    show(document, two_columns([title, *(lines or [("nothing", "")])]), as_json)
