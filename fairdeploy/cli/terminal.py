"""Shows on the terminal how far the pipeline is: a bar while a stage runs, a line when it is done.

Everything goes to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from fairdeploy.runs.progress import Stage

_NAME_WIDTH = 18
_SHOWN_SECONDS = 0.1


class TerminalStage:
    """One running stage: a bar if its length is known, a spinner otherwise."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self.text = ""

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        self._bars.advance(self._task, count)

    def note(self, text: str) -> None:
        """Keep ``text`` for the stage's last line."""
        self.text = text


class TerminalProgress:
    """A ``Progress`` that draws with rich; plain lines where stderr is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._num_open = 0
        self._done_mark = "✓" if console.encoding.lower().startswith("utf") else "-"

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Show ``name`` while the block runs, and how long it took when it ends well."""
        started = time.perf_counter()
        task = self._open(name, total)
        stage = TerminalStage(self._bars, task)
        try:
            yield stage
        finally:
            self._close(task)
        self._print_done(name, stage.text, time.perf_counter() - started)

    def warn(self, text: str) -> None:
        """Print a warning at once."""
        self._console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True, highlight=False)

    def _open(self, name: str, total: int | None) -> TaskID:
        if self._num_open == 0:
            self._bars.start()
        self._num_open += 1
        return self._bars.add_task(escape(name), total=total)

    def _close(self, task: TaskID) -> None:
        self._bars.remove_task(task)
        self._num_open -= 1
        if self._num_open == 0:
            self._bars.stop()

    def _print_done(self, name: str, text: str, seconds: float) -> None:
        duration = f"{seconds:.1f} s" if seconds >= _SHOWN_SECONDS else ""
        parts = [part for part in (escape(text), duration) if part]
        self._console.print(
            f"[green]{self._done_mark}[/] {escape(name):<{_NAME_WIDTH}} [dim]{'  '.join(parts)}[/]",
            soft_wrap=True,
            highlight=False,
        )
