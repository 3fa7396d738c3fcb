"""Tables on the terminal that several summaries have; they need nothing but rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def two_columns(lines: Sequence[tuple[str, str]]) -> Table:
    """Bold names and what there is to say of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    return table
