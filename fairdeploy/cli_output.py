"""What a command prints: progress on stderr, results on stdout for people or for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

from fairdeploy.progress import Progress, SilentProgress

_LOG_WIDTH = 120


def progress_for(is_silent: bool) -> Progress:
    """A listener that draws on stderr, or one that keeps quiet."""
    if is_silent:
        return SilentProgress()
    from fairdeploy.terminal import TerminalProgress

    return TerminalProgress(Console(stderr=True))


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
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    console.print(renderable, highlight=False, soft_wrap=is_unbroken)
