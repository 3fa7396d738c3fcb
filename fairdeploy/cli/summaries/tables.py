"""Tables on the terminal that several summaries have; they need nothing but rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

Line = tuple[str, str]


def shown(draw: Callable[[], RenderableType]) -> RenderableType:
    """What ``draw`` gives, or in its place that it failed."""
    try:
        return draw()
    except Exception as problem:  # no summary may cost a finished run
        return two_columns([_failed(problem)])


def lines_of(*parts: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """All lines one after the other; a part that fails is one line that says so."""
    for part in parts:
        try:
            yield from list(part())
        except Exception as problem:  # no summary may cost a finished run
            yield _failed(problem)


def _failed(problem: Exception) -> Line:
    text = f"{type(problem).__name__}: {problem}"
    return "not shown", f"[yellow]{escape(text)}[/]; see the report; please report this"


def two_columns(lines: Sequence[Line]) -> Table:
    """Bold names and what there is to say of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    return table
