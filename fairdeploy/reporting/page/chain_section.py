"""The chain on the report's page, between two marks, so that a later export can redraw it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairdeploy.reporting.chain import agreement_titles, verdict
from fairdeploy.reporting.page.markup import Html, join, pill, section, table, tag
from fairdeploy.reporting.quantities import error_text, percent, size

_START, _END = "<!--chain-->", "<!--/chain-->"
_MAIN_END = "</main>"
_ABSENT = "–"


def chain(document: Mapping[str, Any]) -> Html:
    """Every comparison from the original to the last file, with one verdict."""
    told = document["chain"]
    agreement = agreement_titles(document, told["rows"])
    rows = (
        (
            row["step"],
            join((row["file"], tag("span", row["note"], class_="under") if row["note"] else "")),
            row["precision"] or _ABSENT,
            _ABSENT if row["size_bytes"] is None else size(row["size_bytes"]),
            _error(row),
            *(_share(row["top1_agreement"]) for _ in agreement),
            _share(row["accuracy"]),
            _passed(row["passed"]),
        )
        for row in told["rows"]
    )  # fmt: skip
    headers = ("step", "file", "precision", "size", "error", *agreement, "accuracy", "")
    body = section(
        "The chain",
        tag("p", pill(verdict(told), is_good=told["passed"])),
        table(headers, rows, numeric_from=3),
        lead="From the original with its removed units at zero to every file that is deployed. "
        "Errors are relative to the largest output; those of files in other formats to the spread "
        "of the column (class, coordinate, channel) that is furthest off.",
    )
    return Html(f"{_START}{body}{_END}")


def with_chain(page: str, document: Mapping[str, Any]) -> str:
    """A page that was written earlier, with the chain as it is now."""
    before, start, rest = page.partition(_START)
    if not start:
        before, end, after = page.rpartition(_MAIN_END)
        return f"{before}{chain(document)}{end}{after}"
    _, _, after = rest.partition(_END)
    return f"{before}{chain(document)}{after}"


def _error(row: Mapping[str, Any]) -> Html:
    if row["limit"] is None or (row["error"] is None and row["passed"] is None):
        return Html(_ABSENT)
    limit = tag("span", f"limit {error_text(row['limit'])}", class_="under")
    return join((error_text(row["error"]), limit))


def _share(value: float | None) -> str:
    return _ABSENT if value is None else percent(value)


def _passed(passed: bool | None) -> Html:
    if passed is None:
        return Html("not run")
    return pill("holds", is_good=True) if passed else pill("failed", is_good=False)
