"""``report.html``: the run on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from collections.abc import Callable

from fairdeploy.records import RunRecord
from fairdeploy.reporting.page import (
    blocks_section,
    chain_section,
    changes_section,
    groups_section,
    latency_search_section,
    measured_sections,
    operators_section,
    rounding_section,
    run_section,
    summary_section,
    theory_section,
)
from fairdeploy.reporting.page.markup import Html, drawn, tag
from fairdeploy.reporting.page.page import render_page


def render_html(record: RunRecord) -> str:
    """The whole page as one string; every text from the run is escaped."""
    parts = (drawn(title, draw) for title, draw in _parts(record).items())
    ending = tag("footer", "Every number on this page, and more, is in report.json beside it.")
    return render_page(summary_section.title(record.document), tag("main", *parts, ending))


def _parts(record: RunRecord) -> dict[str, Callable[[], Html]]:
    """What draws each part, under what it is called where it fails."""
    document = record.document
    return {
        "Result": lambda: summary_section.header(document),
        "Checks": lambda: summary_section.tiles(document),
        "The network": lambda: summary_section.network_table(document),
        "Accuracy": lambda: measured_sections.accuracy(document),
        "Changed answers": lambda: changes_section.changed_answers(document),
        "Latency": lambda: measured_sections.latency(record.latency),
        "Latency budget": lambda: latency_search_section.latency_search(document["latency_search"]),
        "Operators": lambda: operators_section.why_not_faster(document),
        "Channel multiples": lambda: rounding_section.rounding(document["rounding"]),
        "Blocks": lambda: blocks_section.blocks(document["blocks"]),
        "Kept units": lambda: groups_section.kept_units(document["groups"]),
        "How much went": lambda: _rule(record),
        "Theory": lambda: theory_section.theory(
            document["groups"], document["exchange"], document["method"]
        ),
        "What stays": lambda: groups_section.frozen_parts(
            document["groups"], document["freezes"], document["model"]["original"]["params"]
        ),
        "Chain": lambda: chain_section.chain(document),
        "Files": lambda: measured_sections.artifacts(document),
        "This run": lambda: run_section.run_facts(document),
    }


def _rule(record: RunRecord) -> Html:
    """How much went from each group, and by which rule."""
    document = record.document
    if document["method"]["allocation"] != "tod":
        return theory_section.shared_knob(document["method"], document["tolerance"])
    return groups_section.tod_curves(document["groups"], record.tod_curves, document["tolerance"])
