"""``sweep.html`` of an invented sweep."""

from __future__ import annotations

import re
from typing import Any

from fairdeploy.reporting.page.sweep import render_sweep
from tests.reporting.sample_sweep import sweep_document
from tests.reporting.test_html_report import ATTACK, Page

SPACE = "\N{NO-BREAK SPACE}"


def render(**changes: Any) -> Page:
    return Page(render_sweep({**sweep_document(), **changes}))


def section_of(html: str, title: str) -> str:
    start = html.index(f"<h2>{title}")
    return html[start : html.index("</section>", start)]


def test_page_tells_the_knee_and_the_main_numbers() -> None:
    text = render().text.replace(SPACE, " ")
    for expected in (
        "tinynet: 3 smaller networks, down to 20.0 % of its parameters",
        "The knee is params=50%: farthest above the line.",
        "of the parameters: 89.0 % accuracy (−1.0 points), 2.00× as fast",
        "4.00× as fast with 20.0 % of the parameters: 40.0 % accuracy (−50.0 points)",
        "✓ proved 3.0e-07",
        "800 test images, after repair by least squares",
        "in races of at most 5 s, shorter than shrink's",
        "1 of 3 are wider than 10 %: the machine was busy",
        "10% of the params is out of reach",
        "no class names were given",
        "fairdeploy shrink m.pt --budget params=50%",
        "fairdeploy sweep m.pt --at 69%,62%",
    ):
        assert expected in text, expected


def test_no_measurable_loss_is_only_claimed_where_the_images_could_show_one() -> None:
    document = sweep_document(knee=None)
    document["points"][2]["difference"] = {"value": -0.01, "low": -0.02, "high": 0.00}
    document["points"][3]["difference"] = {"value": -0.06, "low": -0.13, "high": 0.01}
    text = Page(render_sweep(document)).text.replace(SPACE, " ")
    # A loss of 13 points is not ruled out for the smallest; for the next, 2 points are.
    assert "No measurable loss down to 50.0 %" in text
    assert "at most one of 2.0 %" in text


def test_page_needs_nothing_from_elsewhere() -> None:
    page = render()
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert links == ["data:,"]


def test_each_network_has_a_mark_in_both_plots_and_a_row() -> None:
    html = render_sweep(sweep_document())
    accuracy = section_of(html, "Accuracy against parameters").replace(SPACE, " ")
    latency = section_of(html, "Latency against parameters").replace(SPACE, " ")
    for text in (
        "original: 100.0 % of the parameters, 90.0 % accuracy, 95 % interval 88.0 % to 92.0 %",
        "params=75%: 75.0 % of the parameters, 90.5 % accuracy",
        "params=50%: 50.0 % of the parameters, 89.0 % accuracy, 95 % interval 87.0 % to 91.0 %, "
        "knee",
        "params=20%: 20.0 % of the parameters, 40.0 % accuracy",
    ):
        assert f'aria-label="{text}' in accuracy
    for text in (
        "original: 100.0 % of the parameters, 100.0 % of the latency",
        "params=20%: 20.0 % of the parameters, 25.0 % of the latency, 95 % interval 23.8 % to "
        "26.3 %; 4.00× as fast",
    ):
        assert f'aria-label="{text}' in latency
    rows = section_of(html, "The networks").count("<tr>")
    assert rows == 1 + 4


def test_knee_is_ringed_and_what_is_beaten_is_hollow() -> None:
    html = section_of(render_sweep(sweep_document()), "Accuracy against parameters")
    whole, close_up = html.split("<h3>")
    assert whole.count('class="ring') == close_up.count('class="ring') == 1
    document = sweep_document()
    document["points"][1]["non_dominated"] = False
    html = section_of(render_sweep(document), "Accuracy against parameters").split("<h3>")[0]
    assert html.count('class="mark other"') == 1
    assert "other-key" in html
    assert "other-key" not in whole


def test_close_up_leaves_out_what_lost_much() -> None:
    html = section_of(render_sweep(sweep_document()), "Accuracy against parameters")
    whole, close_up = html.split("<h3>")
    assert len(re.findall(r'class="mark \w+"', whole)) == 4
    assert len(re.findall(r'class="mark \w+"', close_up)) == 3


def test_one_unsteady_race_does_not_squeeze_the_others() -> None:
    document = sweep_document()
    document["points"][1]["latency"]["left_high"] = 40.0
    html = section_of(render_sweep(document), "Latency against parameters").replace(SPACE, " ")
    ticks = re.findall(r'text-anchor="end">(\d+) %</text>', html)
    # 1.2 times the original's 100 %, in round steps; the last is of the other axis.
    assert ticks == ["0", "50", "100", "150", "100"]


def test_page_claims_nothing_that_was_not_measured() -> None:
    page = Page(render_sweep(sweep_document(has_accuracy=False, has_latency=False, knee=None)))
    assert "Accuracy was not measured: it needs labelled test images." in page.text
    assert "Latency Not measured." in page.text
    assert "No knee: the line is straight." in page.text
    assert "as fast" not in page.text
    assert "right answers" not in page.text
    assert page.count("circle", "ring") == 0


def test_page_tells_how_the_networks_were_repaired_and_what_is_not_exact() -> None:
    document = sweep_document()
    document["recovery"] = "none"
    document["points"][2]["proof"] = {**document["points"][2]["proof"], "num_coupled_norms": 3}
    text = Page(render_sweep(document)).text
    assert "test images, without repair" in text
    assert "after repair" not in text
    assert "removed units at zero; in 1 of them layer norms apart" in text


def test_every_text_of_the_user_is_escaped() -> None:
    document = sweep_document()
    document["model"]["name"] = document["model"]["source"] = ATTACK
    document["data"]["source"] = ATTACK
    document["command"] = document["knee"]["command"] = ATTACK
    document["notes"] = document["warnings"] = [ATTACK]
    page = Page(render_sweep(document))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("alert('x')") >= 7
