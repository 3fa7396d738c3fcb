"""``fairdeploy guide``: the pages that come with the package, in the terminal."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Annotated

import typer
from rich.markdown import Markdown

from fairdeploy.cli.output import show_text
from fairdeploy.errors import UsageError


def guide_names() -> list[str]:
    """The pages that there are, in order of their names."""
    pages = files("fairdeploy.cli").joinpath("guides").iterdir()
    return sorted(page.name.removesuffix(".md") for page in pages if page.name.endswith(".md"))


def read_guide(name: str) -> str:
    """One page, in Markdown.

    Raises:
        UsageError: There is no page of that name; the message lists those that there are.
    """
    if name not in guide_names():
        raise UsageError(f"no guide '{name}'; there are {', '.join(guide_names())}")
    return files("fairdeploy.cli").joinpath("guides", f"{name}.md").read_text(encoding="utf-8")


def guide(
    name: Annotated[
        str | None,
        typer.Argument(help="Which page; without it, their list.", autocompletion=guide_names),
    ] = None,
) -> None:
    """Show a guide: the first ten minutes, budgets, data, devices, troubleshooting and more."""
    if name is None:
        titles = {page: read_guide(page).partition("\n")[0].lstrip("# ") for page in guide_names()}
        width = max(map(len, titles))
        show_text("\n".join(f"{page:{width}}  {title}" for page, title in titles.items()))
    elif sys.stdout.isatty():
        show_text(Markdown(read_guide(name)))
    else:
        typer.echo(read_guide(name), nl=False)
