from __future__ import annotations

import io

import pytest
from rich.console import Console

from fairdeploy.cli.terminal import TerminalProgress


def lines_of(console_text: io.StringIO) -> list[str]:
    return console_text.getvalue().splitlines()


def test_finished_stage_leaves_one_line_with_its_note() -> None:
    text = io.StringIO()
    progress = TerminalProgress(Console(file=text, width=80))
    with progress.stage("score units", total=3) as stage:
        stage.advance(3)
        stage.note("3 images [of 3]")
    (line,) = lines_of(text)
    assert "score units" in line
    assert "3 images [of 3]" in line


def test_failed_stage_leaves_no_line() -> None:
    text = io.StringIO()
    progress = TerminalProgress(Console(file=text, width=80))
    with pytest.raises(ValueError, match="broken"), progress.stage("score"):
        raise ValueError("broken")
    assert lines_of(text) == []


def test_stage_inside_a_stage_is_shown_first() -> None:
    text = io.StringIO()
    progress = TerminalProgress(Console(file=text, width=80))
    with progress.stage("outer"), progress.stage("inner"):
        pass
    assert ["inner" in lines_of(text)[0], "outer" in lines_of(text)[1]] == [True, True]


def test_bar_of_a_terminal_is_gone_when_the_stage_is_done() -> None:
    text = io.StringIO()
    progress = TerminalProgress(Console(file=text, width=80, force_terminal=True))
    with progress.stage("score units", total=2) as stage:
        stage.advance()
    # The bar's last act is to erase itself; then comes the one line that stays.
    assert text.getvalue().rstrip("\n").splitlines()[-1].count("score units") == 1


def test_warning_is_shown_as_written() -> None:
    text = io.StringIO()
    TerminalProgress(Console(file=text, width=80)).warn("no labels [predicted instead]")
    assert lines_of(text) == ["warning: no labels [predicted instead]"]
