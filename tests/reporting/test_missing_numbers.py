"""A number that is none (null in the JSON) costs a page, a card or a summary nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fairdeploy.cli.summaries.shrink import shrink_summary
from fairdeploy.cli.summaries.sweep import sweep_summary
from fairdeploy.records import RunRecord
from fairdeploy.reporting.document import write_report
from fairdeploy.reporting.model_card import model_card
from fairdeploy.reporting.page.report import TOOLS, render_html
from fairdeploy.reporting.page.sweep import render_sweep
from tests.reporting.sample_run import (
    document_of,
    sample_arguments,
    sample_curves,
    sample_graph,
    sample_latency,
)
from tests.reporting.sample_sweep import sweep_document


def measured_numbers(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where fractional numbers stand, the first of each list; only those can fail to be numbers."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:1])
    for key, value in items:
        if isinstance(value, dict | list):
            yield from measured_numbers(value, (*place, key))
        elif isinstance(value, float):
            yield (*place, key)


def without(tree: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(tree)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = None
    return changed


def printed(summary: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(summary)
    return capture.get()


def sample_record() -> RunRecord:
    graph = sample_graph()
    latency = sample_latency()
    document = document_of(**sample_arguments(graph, latency=latency))
    return RunRecord(document, sample_curves(graph), latency)


def test_no_missing_number_of_a_run_costs_more_than_its_own_part() -> None:
    record = sample_record()
    places = list(measured_numbers(record.document))
    assert len(places) > 40
    for place in places:
        document = without(record.document, place)
        page = render_html(RunRecord(document, record.tod_curves, record.latency))
        assert page.count("cannot be shown") <= 2, place
        assert all(f"<h2>{title}</h2>" in page for title in ("Accuracy", "Latency", "Files"))
        assert model_card(document).count("## ") >= 5
        assert printed(shrink_summary(document, Path("out"))).count("not shown") <= 2


def test_no_missing_number_of_a_sweep_costs_more_than_its_own_part() -> None:
    whole = sweep_document()
    for place in measured_numbers(whole):
        document = without(whole, place)
        assert render_sweep(document).count("cannot be shown") <= 3, place
        assert printed(sweep_summary(document, Path("out"))).count("not shown") <= 2


def test_a_speed_up_without_an_upper_end_is_shown_with_a_dash() -> None:
    document = without(sample_record().document, ("latency", "speedup_high"))
    card = model_card(document)
    assert "to \N{EN DASH}): " in card
    assert "cannot be shown" not in card


def test_a_part_that_fails_is_told_inside_the_page_and_the_numbers_are_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        assert (tmp_path / "report.json").exists()
        raise ZeroDivisionError("<b>nothing</b>")

    record = sample_record()
    monkeypatch.setitem(TOOLS, "accuracy_bars", fails)
    write_report(tmp_path, record)
    page = (tmp_path / "report.html").read_text()
    assert "cannot be shown (ZeroDivisionError: &lt;b&gt;nothing" in page
    assert "<h2>Latency</h2>" in page
    assert json.loads((tmp_path / "report.json").read_text()) == record.document


def test_names_that_are_no_text_are_written_with_escapes(tmp_path: Path) -> None:
    record = sample_record()
    arguments = sample_arguments(sample_graph(), command=("fairdeploy", "caf\udce9.pt"))
    write_report(tmp_path, RunRecord(document_of(**arguments), record.tod_curves, None))
    assert r"caf\\udce9.pt" in (tmp_path / "report.json").read_text()
