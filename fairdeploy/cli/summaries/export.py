"""What ``fairdeploy export`` and ``verify`` show on the terminal, from their documents."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.summaries.shrink import short
from fairdeploy.cli.summaries.tables import two_columns
from fairdeploy.reporting.chain import agreement_titles, verdict

Document = Mapping[str, Any]
_WORDS = {True: "[green]holds[/]", False: "[bold red]FAILED[/]", None: "[dim]not run[/]"}


def export_summary(document: Document, folder: Path) -> RenderableType:
    """The chain, one line a file, and its verdict."""
    chain = document["chain"]
    color = "green" if chain["passed"] else "bold red"
    facts = [
        ("chain", f"[{color}]{escape(verdict(chain))}[/]"),
        ("images", escape(_images(document))),
        ("report", f"[bold]{escape(str(folder / 'report.html'))}[/]"),
        ("check", f"fairdeploy verify {escape(shlex.quote(str(folder)))}"),
    ]
    return Group(Text(), chain_table(document), Text(), two_columns(facts))


def chain_table(document: Document) -> Table:
    """Every comparison from the original to the last file."""
    rows = document["chain"]["rows"]
    agreement = agreement_titles(document, rows)
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("file", overflow="fold")
    for title in ("size", "error", "limit", *agreement, "accuracy"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        table.add_row(
            row["step"],
            f"[bold]{escape(row['file'])}[/]",
            _or_dash(row["size_bytes"], lambda value: f"{short(value)}B"),
            _error(row),
            _or_dash(row["limit"], lambda value: f"{value:.0e}"),
            *(_or_dash(row["top1_agreement"], lambda value: f"{value:.1%}") for _ in agreement),
            _or_dash(row["accuracy"], lambda value: f"{value:.2%}"),
            _WORDS[row["passed"]] + (f" [dim]{escape(row['note'])}[/]" if row["note"] else ""),
        )
    return table


def verify_summary(document: Document) -> RenderableType:
    """One line for each problem, or that there is none."""
    folder = escape(document["folder"])
    lines = [
        ("[red]problem[/]", f"[bold]{escape(row['path'])}[/] {escape(row['problem'])}")
        for row in document["problems"]
    ]
    for row in document["parity"]:
        lines.append(
            (
                "parity",
                f"{escape(row['artifact'])} at batch {row['batch']}: relative error "
                f"{row['max_relative_error'] or 0:.1e} (limit {row['limit']:.0e})",
            )
        )
    if document["passed"]:
        lines.append(("verified", f"[green]{folder}: all {document['num_files']} files hold[/]"))
    else:
        count = len(document["problems"])
        lines.append(("[red]FAILED[/]", f"{folder}: {count} of its files or checks do not hold"))
    return two_columns(lines)


def _error(row: Document) -> str:
    if row["error"] is None:
        return "–" if row["passed"] is None else "not a number"
    return f"{row['error']:.1e}"


def _or_dash(value: Any, shown: Any) -> str:
    return "–" if value is None else str(shown(value))


def _images(document: Document) -> str:
    notes = dict.fromkeys(row["images"] for row in document.get("variants") or ())
    return "; ".join(notes) or "none were needed"
