"""What strangers name their files and classes must not steer the terminal or the user's shell."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table

from fairdeploy.cli import app as cli
from fairdeploy.cli.output import PlainConsole
from fairdeploy.cli.summaries.shrink import demo_ending
from fairdeploy.cli.terminal import TerminalProgress

HOSTILE = "a\x1b[31mb\x9b2Jc\x07\u202ed"
SHOWN = "a?[31mb?2Jc?d"  # rich itself drops the bell


@pytest.fixture
def console() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=100)


def printed(console: PlainConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_control_characters_are_shown_as_question_marks(console: PlainConsole) -> None:
    table = Table("name")
    table.add_row(escape(HOSTILE))
    console.print(table)
    progress = TerminalProgress(console)
    progress.warn(HOSTILE)
    with progress.stage(HOSTILE) as stage:
        stage.note(HOSTILE)
    assert printed(console).count(SHOWN) == 3
    assert not (set(HOSTILE) - set(SHOWN)) & set(printed(console))


def test_colours_of_our_own_stay() -> None:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print("[red]x[/]")
    assert "\x1b[31mx" in printed(console)


def test_an_error_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", f"{HOSTILE}.pt"]) == 1
    shown = capsys.readouterr().err
    assert f"{SHOWN}.pt" in shown
    assert "\x1b" not in shown


def test_printed_commands_quote_a_folder_that_would_run(console: PlainConsole) -> None:
    console.print(demo_ending(Path("x; touch RAN")))
    assert "inspect 'x; touch RAN/model.pt'" in printed(console)
    assert "cd 'x; touch RAN' && fairdeploy" in printed(console)
