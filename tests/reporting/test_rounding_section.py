"""What rounding cost and gained, on the page and in the JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    GroupRounding,
    MultipleChoice,
    MultipleCost,
    Rounding,
    RunRecord,
    WidthTime,
)
from fairdeploy.reporting.page.report import render_html
from tests.reporting.sample_run import document_of, sample_arguments, sample_curves, sample_graph

CHOICE = MultipleChoice(
    16,
    (WidthTime(32, 0.25), WidthTime(33, 0.5)),
    (
        MultipleCost(1, 1.21, 1.18, 1.24),
        MultipleCost(16, 1.1, 1.05, 1.15),
        MultipleCost(32, 1.0, 1.0, 1.0),
    ),
    is_certain=True,
    is_cached=False,
    seconds=9.0,
)
ROUNDED = Rounding(
    multiple=16,
    source="measured",
    choice=CHOICE,
    groups=(GroupRounding("a<b", 64, 48, 45), GroupRounding("same", 64, 32, 32)),
    costs={"params": 900.0, "macs": 2e6},
    costs_unrounded={"params": 950.0, "macs": 2.1e6},
    r_mass=0.25,
    r_mass_unrounded=0.125,
)


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return sample_graph()


def section(graph: UnitGraph, rounded: Rounding | None) -> str:
    document: dict[str, Any] = document_of(**sample_arguments(graph, rounding=rounded))
    page = render_html(RunRecord(document, sample_curves(graph), None))
    found = re.search(r"<section><h2>Channel multiples</h2>.*?</section>", page, re.DOTALL)
    return found[0] if found else ""


def test_the_page_tells_price_gain_sweep_and_changed_groups(graph: UnitGraph) -> None:
    text = section(graph, ROUNDED)
    assert "Multiples of 16, measured on the target by this run in 9.0\N{NO-BREAK SPACE}s." in text
    # 1.21 / 1.1
    assert "the sweep's network takes 1.10× as long for the same work." in text
    assert '<td>parameters</td><td class="num">900</td><td class="num">950</td>' in text
    assert '<td>R-mass removed</td><td class="num">0.25</td><td class="num">0.125</td>' in text
    assert "Groups whose counts rounding changed: 1 of 2" in text
    assert "a&lt;b" in text
    assert "+3" in text
    assert "0.500\N{NO-BREAK SPACE}ms" in text


@pytest.mark.parametrize(
    ("rounded", "origin"),
    [
        (replace(ROUNDED, source="profile", choice=None), "as the target&#39;s profile says."),
        (replace(ROUNDED, source="--round-to", choice=None), "as asked with --round-to."),
        (replace(ROUNDED, source="not measured", choice=None), "the default: it was not measured"),
        (replace(ROUNDED, choice=replace(CHOICE, is_cached=True)), "by an earlier run in 9.0"),
    ],
)
def test_the_page_says_who_decided(graph: UnitGraph, rounded: Rounding, origin: str) -> None:
    text = section(graph, rounded)
    assert f"Multiples of 16, {origin}" in text.replace("measured on the target by an", "by an")
    assert ("The sweep" in text) == (rounded.choice is not None)


def test_the_page_says_so_when_rounding_changed_nothing(graph: UnitGraph) -> None:
    text = section(graph, replace(ROUNDED, groups=ROUNDED.groups[1:]))
    assert "Any counts would have given the same plan." in text


def test_a_run_with_any_counts_has_no_such_section(graph: UnitGraph) -> None:
    assert section(graph, None) == ""
    assert document_of(**sample_arguments(graph))["rounding"] is None


def test_the_json_holds_the_whole_sweep(graph: UnitGraph) -> None:
    row = document_of(**sample_arguments(graph, rounding=ROUNDED))["rounding"]
    assert row["choice"]["rows"][1] == {"channels": 33, "ms": 0.5}
    assert row["choice"]["costs"][0] == {
        "multiple": 1,
        "relative_cost": 1.21,
        "low": 1.18,
        "high": 1.24,
    }
    assert row["groups"][0] == {"name": "a<b", "units": 64, "kept": 48, "kept_unrounded": 45}
