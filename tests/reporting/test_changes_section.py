"""What the report says of ``--max-drop``."""

from __future__ import annotations

from typing import Any

from fairdeploy.records import DropGate, DropSearch, DropTrial, PairedDifference
from fairdeploy.reporting.accuracy_rows import gate_row
from fairdeploy.reporting.page.report import part
from tests.reporting.test_html_report import Page

SPACE = "\N{NO-BREAK SPACE}"


def trial(percent: int, lost: int, gained: int) -> DropTrial:
    """Tested on 1,000 images; 2 points are allowed."""
    difference = PairedDifference.of_counts(1000, lost, gained, lost + gained)
    share = percent / 100
    return DropTrial(f"params={percent}%", share, share, difference, difference.stays_within(0.02))


def page_of(*trials: DropTrial, chosen: int) -> str:
    search = DropSearch("params", trials, chosen)
    gate = DropGate(0.02, "selection", trials[chosen].difference, search)
    document: dict[str, Any] = dict.fromkeys(("changes", "recovery", "distillation", "tuning"))
    document |= {"max_drop": gate_row(gate), "data": None}
    return Page(part("Changed answers", doc=document)).text.replace(SPACE, " ")


def test_each_network_is_within_too_much_or_undecided() -> None:
    text = page_of(trial(50, 60, 0), trial(75, 40, 28), trial(87, 5, 5), chosen=2)
    assert text.count("too much") == text.count("undecided") == text.count("within") == 1


def test_a_smaller_network_that_the_images_cannot_judge_is_named_with_how_many_would() -> None:
    text = page_of(trial(75, 40, 28), trial(87, 5, 5), chosen=1)
    # (68 + 1) / 1,002 of the answers change sides: times (2 * 1.96 / 0.02) ** 2.
    assert "to tell a drop of 2 % takes about 2,646 images here; there are only 1,000" in text
    assert "which leaves open whether params=75% would do: accuracy fell: -1.20 points" in text


def test_nothing_is_left_open_where_the_images_decided_everything() -> None:
    text = page_of(trial(50, 60, 0), trial(87, 5, 5), chosen=1)
    assert "takes about 422 images here; there are 1,000" in text
    assert "leaves open" not in text
