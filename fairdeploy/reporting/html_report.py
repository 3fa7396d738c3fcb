"""``report.html``: the run on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from fairdeploy.records import RunRecord
from fairdeploy.reporting import (
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
from fairdeploy.reporting.markup import Html, tag
from fairdeploy.reporting.page import render_page


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
        changes_section.changed_answers(document),
        measured_sections.latency(record.latency),
        latency_search_section.latency_search(document["latency_search"]),
        operators_section.why_not_faster(document),
        rounding_section.rounding(document["rounding"]),
        blocks_section.blocks(document["blocks"]),
        groups_section.kept_units(groups),
        _rule(record),
        theory_section.theory(groups, document["exchange"], document["method"]),
        groups_section.frozen_parts(
            groups, document["freezes"], document["model"]["original"]["params"]
        ),
        chain_section.chain(document),
        measured_sections.artifacts(document),
        run_section.run_facts(document),
        tag("footer", "Every number on this page, and more, is in report.json beside it."),
    )
    return render_page(summary_section.title(document), main)


def _rule(record: RunRecord) -> Html:
    """How much went from each group, and by which rule."""
    document = record.document
    if document["method"]["allocation"] != "tod":
        return theory_section.shared_knob(document["method"], document["tolerance"])
    return groups_section.tod_curves(document["groups"], record.tod_curves, document["tolerance"])
