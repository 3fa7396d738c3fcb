"""The page lists every plan that a latency search measured, and what kind each was."""

from __future__ import annotations

from dataclasses import asdict

from fairdeploy.records import LatencyCandidate, LatencySearch, TimedPlan
from fairdeploy.reporting.page.report import part
from tests.reporting.test_html_report import Page


def candidate(ratio: float, *, remark: str = "", **kind: bool) -> LatencyCandidate:
    timed = TimedPlan(ratio, ratio, ratio, 10.0, 10 * ratio)
    return LatencyCandidate(ratio, timed, ratio / 0.6, 100.0, 500.0, remark=remark, **kind)


def test_plans_are_numbered_and_say_where_they_lie_and_why_they_were_passed_over() -> None:
    search = LatencySearch(
        "latency=60%",
        (1.0, 10.0),
        (
            candidate(0.62),
            candidate(0.61, is_detour=True, remark="slower than a plan that removes less"),
            candidate(0.59, is_detour=True),
            candidate(0.591, is_confirmation=True),
        ),
        "confirmed",
        TimedPlan(0.591, 0.59, 0.592, 10.0, 5.91),
        is_confirmed=True,
    )
    text = Page(part("Latency budget", doc={"latency_search": asdict(search)})).text
    assert "1 62.0 %" in text
    assert "2 beside the shared tolerance; slower than a plan that removes less 61.0 %" in text
    assert "3 beside the shared tolerance 59.0 %" in text
    assert "measured again 59.1 %" in text
