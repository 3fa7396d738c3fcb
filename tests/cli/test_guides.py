"""README and guides: what they tell to type can be typed, and what they point at is there."""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer

from fairdeploy.cli import app as cli
from fairdeploy.cli.commands.guide import guide_names

README = Path(__file__).parents[2] / "README.md"
GUIDES = Path(str(files("fairdeploy.cli") / "guides"))
# The installed package is tested without the README beside it.
PAGES = [*([README] if README.is_file() else []), *sorted(GUIDES.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_can_be_typed(page: Path) -> None:
    root: Any = typer.main.get_command(cli.app)
    for line in commands_of(page):
        name, *arguments = shlex.split(line, comments=True)[1:] or ["--help"]
        if name.startswith("-"):
            continue
        assert name in root.commands, line
        command = root.commands[name]
        command.make_context(name, [*arguments], resilient_parsing=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guides_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"fairdeploy guide ([a-z]+)", page.read_text(encoding="utf-8"))
    assert set(named) <= set(guide_names())


@pytest.mark.skipif(not README.is_file(), reason="the README is not beside the package")
def test_readme_leads_to_every_guide() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in guide_names() if f"guides/{name}.md" not in text] == []


def test_a_guide_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["guide", "budgets"]) == 0
    assert capsys.readouterr().out == (GUIDES / "budgets.md").read_text(encoding="utf-8")
    assert cli.run(["guide"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == guide_names()


def test_a_guide_in_a_terminal_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.run(["guide", "ci"]) == 0
    drawn = capsys.readouterr().out
    assert "In continuous integration" in drawn
    assert "```" not in drawn


def test_an_unknown_guide_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["guide", "../app"]) == 2
    assert "no guide '../app'; there are accuracy," in capsys.readouterr().err


def test_alone_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    printed = capsys.readouterr()
    assert "shrink" in printed.out
    assert printed.err == ""


def test_a_wrong_option_leads_to_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["sweep", "model.pt", "--nothing"]) == 2
    assert capsys.readouterr().err.endswith("see fairdeploy sweep --help\n")


def commands_of(page: Path) -> list[str]:
    """Lines of code, and code within lines, that call fairdeploy."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`(fairdeploy [a-z][^`]*)`", text)
    lines = [line.removeprefix("$ ").strip() for line in text.splitlines()]
    typed = [line for line in lines if line.startswith("fairdeploy ") and "|" not in line]
    return [*inline, *(line for line in typed if not line.endswith("…`"))]
