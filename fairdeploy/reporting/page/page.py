"""The frame of every page that we write: one file that needs no network."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fairdeploy.reporting.page.markup import Html, tag

# The page can fetch nothing, whatever text has found its way into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_page(title: str, main: Html) -> str:
    """The whole page as one string, with its style sheet."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · fairdeploy"),
        tag("link", rel="icon", href="data:,"),
        tag("style", _style()),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", main), lang="en") + "\n"


@cache
def _style() -> Html:
    return Html(
        resources.files("fairdeploy.reporting").joinpath("report.css").read_text(encoding="utf-8")
    )
