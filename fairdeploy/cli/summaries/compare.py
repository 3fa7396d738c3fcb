"""What ``fairdeploy compare`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fairdeploy.reporting.comparison import comparison_table, verdict_lines
from fairdeploy.reporting.page.comparison import COMPARISON_PAGE


def compare_summary(document: Mapping[str, Any], output: Path | None) -> RenderableType:
    """A column for each result, what is best in what, and where the page is."""
    titles, rows = comparison_table(document)
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    for title in titles:
        table.add_column(escape(title), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    lines = [escape(line) for line in verdict_lines(document)]
    if output is not None:
        lines.append(f"[bold]{escape(str(output / COMPARISON_PAGE))}[/]")
    return Group(table, "", *lines)
