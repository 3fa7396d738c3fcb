"""HTML that cannot be broken by what it shows: every plain string is escaped on its way in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

_VOID = {"meta", "link", "br", "wbr", "rect", "line", "circle", "path"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


NOTHING = Html("")


def join(parts: Iterable[str]) -> Html:
    """The parts one after the other; plain strings are escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, *children: str, **attributes: str | float | None) -> Html:
    """One element. ``class_`` stands for ``class``, ``_`` in a name for ``-``; None is left out.

    Keys that SVG spells in camel case are given as they are.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def dotted(name: str) -> Html:
    """A dotted or underscored name that may break after each part on a narrow screen."""
    parts = re.split(r"(?<=[._])", name)
    return Html(str(tag("wbr")).join(escape(part) for part in parts))


def section(title: str, *children: str, lead: str = "") -> Html:
    """A titled part of the page; ``lead`` says in a sentence how to read it."""
    intro = tag("p", lead, class_="lead") if lead else NOTHING
    return tag("section", tag("h2", title), intro, *children)


def drawn(title: str, draw: Callable[[], Html]) -> Html:
    """What ``draw`` gives; if that fails, a section that says so: the rest of a page stands."""
    try:
        return draw()
    except Exception as problem:  # no drawing may cost a run its page
        return section(title, lead=not_shown(problem))


def not_shown(problem: Exception) -> str:
    """What stands in the place of a part that failed."""
    return (
        f"This part cannot be shown ({type(problem).__name__}: {problem}); its numbers are in the "
        "JSON file beside this one. Please report this."
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, numeric_from: int = 1) -> Html:
    """A table that scrolls sideways on a narrow screen; later columns are right-aligned numbers.

    Args:
        headers: One a column.
        rows: Cells, as text or markup.
        numeric_from: First column that holds numbers.
    """

    def line(cell: str, cells: Sequence[str]) -> Html:
        classes = ("num" if index >= numeric_from else None for index in range(len(cells)))
        return tag(
            "tr", *(tag(cell, text, class_=kind) for text, kind in zip(cells, classes, strict=True))
        )

    head = tag("thead", line("th", headers))
    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", head, body), class_="scroll")


def details(summary: str, *children: str) -> Html:
    """A part that opens on a click."""
    return tag("details", tag("summary", summary), *children)


def pill(text: str, *, is_good: bool) -> Html:
    """A coloured word with a sign, so that it reads without colour too."""
    sign = "✓" if is_good else "✗"
    return tag("span", f"{sign} {text}", class_="pill good" if is_good else "pill bad")
