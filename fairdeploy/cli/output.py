"""What a command prints: progress on stderr, results on stdout for people or for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fairdeploy.runs.progress import Progress, SilentProgress

_LOG_WIDTH = 120
# Names of files, classes and nodes come from strangers; none may move the cursor or turn text.
_CONTROLS = {
    code: "?"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


class PlainConsole(Console):
    """A console that shows control characters of printed texts as question marks."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is shown, piece by piece; rich's own controls stay."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(segment.text.translate(_CONTROLS), segment.style)


def progress_for(is_silent: bool) -> Progress:
    """A listener that draws on stderr, or one that keeps quiet."""
    if is_silent:
        return SilentProgress()
    from fairdeploy.cli.terminal import TerminalProgress

    return TerminalProgress(PlainConsole(stderr=True))


def show(document: Mapping[str, Any], summary: RenderableType, as_json: bool) -> None:
    """Print a result for people or for machines."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    else:
        show_text(summary)


def show_text(renderable: RenderableType, *, is_unbroken: bool = False) -> None:
    """Print for people; in a log, lines are as long as on a wide terminal.

    Args:
        renderable: What to print.
        is_unbroken: Leave long lines to the terminal, so that what is copied has no line breaks.
    """
    console = PlainConsole()
    if not console.is_terminal:
        console = PlainConsole(width=_LOG_WIDTH)
    console.print(renderable, highlight=False, soft_wrap=is_unbroken)
