"""The plots of a sweep: accuracy against cost, a close-up of its top, and latency against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.page.frontier_chart import Mark, MarkKind, axis_over, frontier_chart
from fairdeploy.reporting.page.markup import Html, section, tag
from fairdeploy.reporting.quantities import as_fast, percent, repaired

Row = Mapping[str, Any]

# What a close-up shows, in shares of right answers below the best; at least three networks.
_CLOSE = 0.05
_MIN_CLOSE = 3
_TOP = 1.0
# One unsteady race must not squeeze all others: beyond this, times the highest, intervals are cut.
_HEADROOM = 1.2


def cost_key(document: Row) -> str:
    """The swept metric's key among a point's costs."""
    return METRICS[document["metric"]].key


def quality_plots(document: Row) -> Html:
    """Accuracy against cost; R-Scores that stay where there were no labelled test images."""
    if document["quality"] == "r_mass_kept":
        return _r_mass_plot(document)
    marks = [_accuracy_mark(document, point) for point in document["points"]]
    best = max(mark.y for mark in marks)
    close = [mark for mark in marks if mark.y >= best - _CLOSE]
    is_worth_it = _MIN_CLOSE <= len(close) < len(marks)
    metric = METRICS[document["metric"]].words
    return section(
        f"Accuracy against {metric}",
        _legend(marks, "accuracy"),
        _accuracy_chart(document, marks, f"accuracy against {metric}"),
        *(
            (
                tag("h3", f"Close-up: at most {100 * _CLOSE:.0f} points below the best"),
                _accuracy_chart(document, close, f"accuracy against {metric}, close-up"),
            )
            if is_worth_it
            else ()
        ),
        lead=f"Share of right answers on {document['num_test_images']:,} test images, "
        f"{repaired(document['recovery'])}, over the {_x_title(document)}. A network is on the "
        "frontier if no cheaper one is as accurate.",
    )


def latency_plots(document: Row) -> Html:
    """Latency against cost, both as shares of the original's."""
    raced = [point for point in document["points"] if point["latency"]]
    if not raced:
        return section("Latency", lead="Not measured.")
    marks = [_latency_mark(document, point) for point in (document["points"][0], *raced)]
    highest = _HEADROOM * max(mark.y for mark in marks)
    metric, target = METRICS[document["metric"]].words, document["target"]
    chart = frontier_chart(
        marks,
        axis_over([0.0, *(mark.x for mark in marks)]),
        axis_over([0.0, *(min(mark.high, highest) for mark in marks)]),
        title=f"latency against {metric}",
        x_title=_x_title(document),
        tick_text=_short_percent,
        level=1.0,
        has_diagonal=True,
    )
    wide = sum(point["latency"]["is_wide"] for point in raced)
    return section(
        f"Latency against {metric}",
        _legend(marks, "latency", has_diagonal=True),
        chart,
        lead="Latency per call as a share of the original's, each network raced against it in turn "
        f"on {target['name']}, batch {target['batch']}, in races of at most "
        f"{target['max_seconds']:g} s, shorter than shrink's; the bar is the 95 % interval."
        + (f" {wide} of {len(raced)} are wider than 10 %: the machine was busy." if wide else ""),
    )


def _accuracy_chart(document: Row, marks: Sequence[Mark], title: str) -> Html:
    values = [value for mark in marks for value in (mark.low, mark.high)]
    has_whole = len(marks) == len(document["points"])
    costs = [mark.x for mark in marks]
    return frontier_chart(
        marks,
        axis_over([0.0, *costs] if has_whole else costs),
        axis_over(values, most=_TOP),
        title=title,
        x_title=_x_title(document),
        tick_text=_short_percent,
        level=document["points"][0]["accuracy"]["value"],
    )


def _r_mass_plot(document: Row) -> Html:
    metric = METRICS[document["metric"]].words
    marks = [
        _mark(document, point, *[1.0 - point["r_mass_removed_share"]] * 3, text="of the R-Scores")
        for point in document["points"]
    ]
    return section(
        f"R-Scores against {metric}",
        _legend(marks),
        frontier_chart(
            marks,
            axis_over([0.0, *(mark.x for mark in marks)]),
            axis_over([mark.y for mark in marks], most=_TOP),
            title=f"R-Scores that stay against {metric}",
            x_title=_x_title(document),
            tick_text=_short_percent,
        ),
        lead="Accuracy was not measured: it needs labelled test images. Shown instead is the share "
        f"of all R-Scores that stays, over the {_x_title(document)}.",
    )


def _accuracy_mark(document: Row, point: Row) -> Mark:
    row = point["accuracy"]
    interval = f"accuracy, 95 % interval {percent(row['low'])} to {percent(row['high'])}"
    return _mark(document, point, row["low"], row["value"], row["high"], text=interval)


def _latency_mark(document: Row, point: Row) -> Mark:
    """Joined to its neighbours, on the frontier or not: it is about speed alone."""
    row = point["latency"]
    if row is None:
        mark = _mark(document, point, 1.0, 1.0, 1.0, text="of the latency")
    else:
        interval = f"{percent(row['left_low'])} to {percent(row['left_high'])}"
        text = f"of the latency, 95 % interval {interval}; {as_fast(row)}"
        mark = _mark(document, point, row["left_low"], row["left"], row["left_high"], text=text)
    return replace(mark, is_joined=True)


def _mark(document: Row, point: Row, low: float, value: float, high: float, *, text: str) -> Mark:
    """A point at its share of the original's cost."""
    share = point["left"][cost_key(document)]
    name, metric = point["budget"] or "original", METRICS[document["metric"]].words
    said = f"{name}: {percent(share)} of the {metric}, {percent(value)} {text}"
    return Mark(
        share,
        value,
        low,
        high,
        f"{said}, knee" if point["is_knee"] else said,
        _kind(point),
        is_joined=point["non_dominated"],
        label=f"knee: {percent(share)}" if point["is_knee"] else "",
    )


def _kind(point: Row) -> MarkKind:
    if point["budget"] is None:
        return "original"
    return "front" if point["non_dominated"] else "other"


def _x_title(document: Row) -> str:
    verb = "stays" if document["metric"] == "size" else "stay"
    return f"{METRICS[document['metric']].words} that {verb}"


def _short_percent(share: float) -> str:
    """``40 %``, or ``97.5 %`` where the step asks for it."""
    text = percent(share, 2)
    number, space, sign = text.partition("\N{NO-BREAK SPACE}")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{sign}"


def _legend(marks: Sequence[Mark], value: str = "", *, has_diagonal: bool = False) -> Html:
    """Signs that the plot has; ``value`` is what the dashed line is at, if there is one."""
    kinds = {mark.kind for mark in marks}
    signs = (
        ("dot-key original-key", "original", "original" in kinds),
        ("dot-key", "on the frontier", "front" in kinds),
        ("dot-key other-key", "other", "other" in kinds),
        ("dot-key ring-key", "knee", any(mark.label for mark in marks)),
        ("line whisker-key", "95 % interval", any(mark.high > mark.low for mark in marks)),
        ("line tolerance-key", f"the original's {value}", bool(value)),
        ("line diagonal-key", "as much time as cost", has_diagonal),
    )
    items = (tag("li", tag("i", class_=name), text) for name, text, is_shown in signs if is_shown)
    return tag("ul", *items, class_="legend")
