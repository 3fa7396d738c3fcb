"""One speed-up everywhere, from the same pairs of calls; none where the machine was too busy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from fairdeploy.cli.summaries.measure import measure_summary
from fairdeploy.cli.summaries.shrink import latency_lines
from fairdeploy.cli.summaries.sweep import sweep_summary
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import LatencyComparison, RunRecord
from fairdeploy.reporting.measure_document import measure_row
from fairdeploy.reporting.model_card import model_card
from fairdeploy.reporting.page.report import render_html
from fairdeploy.reporting.page.sweep import render_sweep
from tests.reporting.sample_run import (
    document_of,
    sample_arguments,
    sample_curves,
    sample_graph,
    sample_latency,
)
from tests.reporting.sample_sweep import sweep_document

NO_CLAIM = "no claim: machine too busy"


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return sample_graph()


def printed(shown: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def race(**changes: Any) -> LatencyComparison:
    """The medians of all calls have the quotient 1.43; their pairs say 1.26."""
    return replace(sample_latency(), idle_gap=None, speedup=1.26, **changes)


def told(graph: UnitGraph, latency: LatencyComparison) -> Iterator[str]:
    """The summary, the model card, the page, and what ``measure`` prints."""
    document = document_of(**sample_arguments(graph, latency=latency))
    yield dict(latency_lines(document["latency"]))["latency"]
    yield model_card(document)
    yield render_html(RunRecord(document, sample_curves(graph), latency))
    files = [{"path": "a.onnx"}, {"path": "b.onnx"}]
    measured = {"target": {"idle_gap_ms": None}, "files": files, "rows": [measure_row(latency)]}
    yield printed(measure_summary(measured))


def test_the_speed_up_is_the_same_everywhere_and_that_of_the_milliseconds(
    graph: UnitGraph,
) -> None:
    latency = race(speedup_low=1.2, speedup_high=1.3)
    row = document_of(**sample_arguments(graph, latency=latency))["latency"]
    assert row["original_ms"] / row["shrunk_ms"] == pytest.approx(1.26)
    first, second = (measure_row(latency)[name]["ms"] for name in ("first", "second"))
    assert first / second == pytest.approx(1.26)
    for text in told(graph, latency):
        assert "1.26" in text
        assert NO_CLAIM not in text
        assert "1.43×" not in text


def test_a_race_that_says_too_little_makes_no_claim_anywhere(graph: UnitGraph) -> None:
    for text in told(graph, race(speedup_low=0.9, speedup_high=1.76, is_too_busy=True)):
        assert NO_CLAIM in text
        assert "1.26" not in text
        assert "1.76" in text


def test_a_sweep_claims_nothing_of_a_network_that_was_raced_on_too_busy_a_machine() -> None:
    document = sweep_document()
    document["points"][3]["latency"]["is_too_busy"] = True
    page, table = render_sweep(document), printed(sweep_summary(document, Path("out")))
    assert NO_CLAIM in page
    assert "no claim (3.80 to 4.20)" in table
    assert "4.00×" not in page
    assert "4.00x" not in table
    assert "2.00× as fast" in page
