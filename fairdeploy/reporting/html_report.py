"""``report.html``: the run on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fairdeploy.records import RunRecord
from fairdeploy.reporting import (
    groups_section,
    latency_search_section,
    measured_sections,
    operators_section,
    rounding_section,
    run_section,
    summary_section,
)
from fairdeploy.reporting.markup import Html, tag

# The page can fetch nothing, whatever text has found its way into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(record: RunRecord) -> str:
    """The whole page as one string; every text from the run is escaped."""
    document = record.document
    groups = document["groups"]
    main = tag(
        "main",
        summary_section.header(document),
        summary_section.tiles(document),
        summary_section.network_table(document),
        measured_sections.accuracy(document),
        measured_sections.latency(record.latency),
        latency_search_section.latency_search(document["latency_search"]),
        operators_section.why_not_faster(document),
        rounding_section.rounding(document["rounding"]),
        groups_section.kept_units(groups),
        groups_section.tod_curves(groups, record.tod_curves, document["tolerance"]),
        groups_section.frozen_parts(
            groups, document["freezes"], document["model"]["original"]["params"]
        ),
        measured_sections.artifacts(document),
        run_section.run_facts(document),
        tag("footer", "Every number on this page, and more, is in report.json beside it."),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{summary_section.title(document)} · fairdeploy"),
        tag("link", rel="icon", href="data:,"),
        tag("style", _style()),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", main), lang="en") + "\n"


@cache
def _style() -> Html:
    return Html(
        resources.files("fairdeploy.reporting").joinpath("report.css").read_text(encoding="utf-8")
    )
