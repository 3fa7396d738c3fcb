from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from fairdeploy.graph.unit_graph import Freeze, FrozenGroup, UnitGraph
from fairdeploy.records import (
    AccuracyByStage,
    GroupRemark,
    Mending,
    ParityResult,
    ProofResult,
    RestrictionOutcome,
    RunRecord,
)
from fairdeploy.reporting.page.report import MAX_BARS, MAX_CURVES, part, render_html
from tests.reporting.sample_run import (
    document_of,
    sample_arguments,
    sample_curves,
    sample_graph,
    sample_latency,
)

VOID = {"meta", "link", "wbr", "br"}
ATTACK = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Checks that tags nest, and collects them with the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open_tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open_tags:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def count(self, tag: str, class_name: str) -> int:
        return sum(
            name == tag and class_name in (attrs.get("class") or "").split()
            for name, attrs in self.tags
        )


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return sample_graph()


def render(graph: UnitGraph, **changes: Any) -> Page:
    arguments = sample_arguments(graph, **changes)
    document = document_of(**arguments)
    return Page(render_html(RunRecord(document, sample_curves(graph), arguments["latency"])))


def test_page_tells_the_verdict_and_the_main_numbers(graph: UnitGraph) -> None:
    text = render(graph).text
    for expected in (
        "smallnet with 39.80 % of its parameters",
        "every check passed",
        "398 of 1,000; at most 400 asked (40%)",
        "90.0 % → 88.0 %",
        "\N{MINUS SIGN}2.0 points on 800 test images",
        "1.43\N{MULTIPLICATION SIGN} as fast",
        "3.1e-07",
        "no class names were given",
        "1 of 2 layers refitted, from 16 images in 0.4 s",
        "fairdeploy shrink 'my model.pt' --budget 40%",
    ):
        assert expected in text, expected


def test_page_needs_nothing_from_elsewhere(graph: UnitGraph) -> None:
    page = render(graph)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    links = [
        attrs[key]
        for _, attrs in page.tags
        for key in ("href", "src", "xlink:href")
        if key in attrs
    ]
    assert links == ["data:,"]
    style = next(attrs for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in str(style["content"])


def test_style_sheet_loads_nothing_and_serves_dark_mode_and_phones(graph: UnitGraph) -> None:
    arguments = sample_arguments(graph)
    html = render_html(RunRecord(document_of(**arguments), {}, None))
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media (max-width" in style
    assert '<meta name="viewport" content="width=device-width, initial-scale=1"/>' in html


def test_every_text_of_the_user_is_escaped(graph: UnitGraph) -> None:
    arguments = sample_arguments(graph)
    changed = dataclasses.replace(
        graph,
        frozen_groups=(FrozenGroup(ATTACK, 3, 5, ATTACK, (ATTACK,)),),
        freezes=(Freeze(ATTACK, ATTACK, ATTACK, ATTACK, True, 3),),
    )
    page = render(
        changed,
        model=dataclasses.replace(arguments["model"], name=ATTACK, source=ATTACK),
        data=dataclasses.replace(arguments["data"], source=ATTACK),
        command=(ATTACK,),
        warnings=(ATTACK,),
        artifacts=(dataclasses.replace(arguments["artifacts"][0], path=ATTACK),),
        parity=(ParityResult(ATTACK, 1, 1e-6, 1e-4, 1.0),),
        stage_seconds={ATTACK: 1.0},
        own_class_problem=ATTACK,
    )
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("alert('x')") >= 10


def test_failed_checks_are_named_at_the_top(graph: UnitGraph) -> None:
    text = render(
        graph,
        proof=ProofResult(float("nan"), 1e-5, 1, (2,)),
        parity=(ParityResult("model.onnx", 3, 0.2, 1e-4, 0.5),),
        shrunk_costs={"params": 500.0, "macs": 1.0, "size": 1.0},
    ).text
    assert "every check passed" not in text
    assert "parameters budget, proof of exact removal, parity of model.onnx at batch 3" in text
    assert "not a number" in text


def test_page_claims_nothing_that_was_not_measured(graph: UnitGraph) -> None:
    page = render(
        graph, accuracy=AccuracyByStage(), latency=None, mending=Mending(), parity=(), artifacts=(),
    )  # fmt: skip
    assert page.text.count("not measured") == 2
    assert "Not measured: it needs labelled images" in page.text
    assert "The network was not repaired" in page.text
    assert "Nothing was exported." in page.text
    assert "as fast" not in page.text
    assert "agrees with torch" not in page.text
    assert page.count("circle", "original") == 0


def test_latency_after_a_pause_and_the_device_are_told(graph: UnitGraph) -> None:
    text = render(graph).text
    assert "median, 33 ms apart" in text
    assert (
        "Measured on Small CPU, 4 cores, governor ondemand, clock 1500 MHz, at most 1800 MHz, "
        "container, onnxruntime 1.32.0."
    ) in text


def test_noisy_latency_is_marked(graph: UnitGraph) -> None:
    text = render(graph, latency=sample_latency(is_noisy=True)).text
    assert "✗ noisy" in text
    assert "The machine was not quiet" in text


@pytest.mark.parametrize(
    ("low", "high", "remark"),
    [(0.9, 1.1, "no clear difference"), (0.7, 0.8, "slower than the original")],
)
def test_speed_up_that_is_none_is_called_so(
    graph: UnitGraph, low: float, high: float, remark: str
) -> None:
    changed = dataclasses.replace(sample_latency(), speedup_low=low, speedup_high=high)
    assert remark in render(graph, latency=changed).text


def test_each_removable_group_has_a_bar_and_a_curve(graph: UnitGraph) -> None:
    page = render(graph)
    assert page.count("path", "curve") == len(graph.groups)
    labels = [str(attrs["aria-label"]) for _, attrs in page.tags if "aria-label" in attrs]
    for group in graph.groups:
        kept = group.size - group.size // 2
        assert f"{group.name}: {kept} of {group.size} units kept" in labels


def test_operations_without_a_rule_are_named(graph: UnitGraph) -> None:
    unknown = Freeze("fancy_op", "block.1", "no rule", "net.py:3", True, 4)
    text = render(dataclasses.replace(graph, freezes=(unknown,))).text
    assert "Operations without a rule" in text
    assert "fancy_op" in text


def test_network_where_nothing_can_go_is_reported(graph: UnitGraph) -> None:
    bare = dataclasses.replace(graph, groups=(), frozen_groups=(), freezes=())
    text = render(bare).text
    assert "Nothing in this network can be removed." in text
    assert "Nothing: every unit" in text


def test_a_run_without_a_command_line_shows_no_empty_box(graph: UnitGraph) -> None:
    assert [name for name, _ in render(graph).tags].count("pre") == 1
    assert "pre" not in [name for name, _ in render(graph, command=()).tags]


def _rows(number: int) -> list[dict[str, Any]]:
    """Groups that lost 0, 1, 2, … of 500 units."""
    return [
        {
            "name": f"layer{index}", "units": 500, "kept": 500 - index, "tod": 0.1,
            "frozen_reason": None, "prefix_length": index, "max_removed": 499,
        }
        for index in range(number)
    ]  # fmt: skip


def test_curves_of_a_deep_network_are_those_of_the_groups_that_lost_most() -> None:
    rows = _rows(MAX_CURVES + 5)
    curve = np.linspace(0, 1, 500)
    curves = {row["name"]: curve for row in rows}
    document = {"groups": rows, "tolerance": 0.1, "method": {"allocation": "tod", "signal": ""}}
    page = Page(part("How much went", doc=document, curves=curves))
    assert page.count("path", "curve") == MAX_CURVES
    drawn = [str(attrs["aria-label"]) for _, attrs in page.tags if "aria-label" in attrs]
    assert drawn[0].startswith("ToD of layer5:")
    assert "5 others are in the table below" in page.text


def test_bars_of_a_deep_network_continue_in_a_table() -> None:
    page = Page(part("Kept units", doc={"groups": _rows(MAX_BARS + 3)}))
    assert page.count("svg", "bar") == MAX_BARS
    assert "3 further groups" in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) == 3 + 1


def test_restrictions_are_told_with_who_could_not_honour_them_and_why(graph: UnitGraph) -> None:
    outcomes = (
        RestrictionOutcome(
            f"--round-to {ATTACK}", 3, 2, exceptions=(GroupRemark("first", f"stays {ATTACK}"),)
        ),
        RestrictionOutcome("--exclude 'a.*'", 4, 1, notes=(GroupRemark("a.b", "with 'c'"),)),
    )
    page = render(graph, restrictions=outcomes)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.count("span", "bad") == 1
    text = page.text.partition("Restrictions")[2]
    assert "not everywhere" in text
    assert f"first: stays {ATTACK}" in text
    assert re.search(r"--exclude 'a\.\*' ✓ kept a\. b: with 'c' 4 1", text)


def test_run_without_restrictions_does_not_mention_them(graph: UnitGraph) -> None:
    assert "Restrictions" not in render(graph).text
