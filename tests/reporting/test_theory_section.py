"""What the page says of R-mass, its bound, and uniform pruning."""

from __future__ import annotations

from typing import Any

import pytest

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import PruningMethod, RunRecord
from fairdeploy.reporting.page.report import part, render_html
from tests.reporting.sample_run import document_of, sample_arguments, sample_curves, sample_graph
from tests.reporting.test_html_report import Page

METHOD = {"signal": "wasserstein", "protect": "taylor", "allocation": "tod", "knob": "tolerance"}


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return sample_graph()


def rows() -> list[dict[str, Any]]:
    """Two groups, of R-mass 4 and 16."""
    shared = {"frozen_reason": None, "tod": 0.25, "prefix_length": 4, "share_protected": 0.3}
    return [
        shared
        | {
            "name": "first", "units": 8, "kept": 5, "r_mass_removed": 1.0, "r_mass_total": 4.0,
            "r_mass_bound_removed": 2.0, "r_mass_uniform": 2.5, "num_removed_uniform": 4,
        },
        shared
        | {
            "name": "second", "units": 9, "kept": 8, "r_mass_removed": 0.8, "r_mass_total": 16.0,
            "r_mass_bound_removed": 4.0, "r_mass_uniform": 0.4, "num_removed_uniform": 2,
        },
    ]  # fmt: skip


def theory(groups: list[dict[str, Any]], exchange: dict[str, float], method: Any) -> str:
    return part("Theory", doc={"groups": groups, "exchange": exchange, "method": method})


def exchange(difference: float) -> dict[str, float]:
    return {
        "uniform_fraction": 0.35, "r_mass_uniform_minus_tod": difference, "r_mass_removed": 1.8,
        "r_mass_bound": 6.0, "r_mass_uniform": 1.8 + difference, "r_mass_total": 20.0,
    }  # fmt: skip


def test_sums_say_what_went_its_bound_and_what_uniform_pruning_would_have_taken() -> None:
    text = Page(theory(rows(), exchange(1.1), METHOD)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "sum of R-Scores, a first-order estimate of what the loss gains. 1.8 of 20 went" in text
    assert "(9.0 %)" in text
    assert "bounds it by 6." in text
    assert "35.0 % of every group within the same limits and multiples, would have removed" in text
    assert "2.9. The additive exchange is +1.1, in favour of this plan." in text


def test_an_exchange_that_speaks_against_the_plan_is_told_too() -> None:
    text = Page(theory(rows(), exchange(-0.25), METHOD)).text
    assert "exchange is \N{MINUS SIGN}0.25, against this plan." in text
    assert "no difference." in Page(theory(rows(), exchange(0.0), METHOD)).text


def test_each_group_has_its_numbers_and_all_of_them_together() -> None:
    page = Page(theory(rows(), exchange(1.1), METHOD))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + 2 + 1
    assert "first 4 0.250 3 30 % 25.0 % 50.0 % 4 62.5 % +1.5" in text
    assert "second 4 0.250 1 30 % 5.0 % 25.0 % 2 2.5 % \N{MINUS SIGN}0.4" in text
    assert "all 4 9.0 % 30.0 % 6 14.5 % +1.1" in text


def test_another_protection_is_named() -> None:
    text = Page(theory(rows(), exchange(1.1), METHOD | {"protect": "l2"})).text
    assert "R-mass is here a sum of the signal that protects, 'l2'." in text
    text = Page(theory(rows(), exchange(1.1), METHOD | {"signal": "hrank", "protect": "none"})).text
    assert "the signal that protects, 'hrank'." in text


def test_a_network_where_nothing_can_go_gives_up_nothing() -> None:
    assert not theory([], exchange(0.0), METHOD).strip()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (PruningMethod("l1", "taylor", "uniform"), "The same share, 25.0 %, goes from every group"),
        (
            PruningMethod("l1", "taylor", "global"),
            "whose 'l1', divided by the mean of its group",
        ),
    ],
)
def test_another_rule_is_explained_in_place_of_the_tolerance(
    graph: UnitGraph, method: PruningMethod, expected: str
) -> None:
    document = document_of(**sample_arguments(graph, method=method))
    page = Page(render_html(RunRecord(document, sample_curves(graph), None)))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert expected in text
    assert "Tolerance of difference" not in text
    assert page.count("path", "curve") == 0


def test_the_default_names_its_signals_and_shows_the_curves(graph: UnitGraph) -> None:
    document = document_of(**sample_arguments(graph))
    assert document["method"] == METHOD
    text = Page(render_html(RunRecord(document, sample_curves(graph), None))).text
    assert "wasserstein removes, taylor protects, tod shares out" in text
    assert "Tolerance of difference" in text
    assert "What was given up" in text
