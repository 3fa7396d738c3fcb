"""``sweep.html``: the frontier on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from fairdeploy.records.metrics import METRICS, Metric
from fairdeploy.reporting.page.frontier_chart import Mark, MarkKind, axis_over, frontier_chart
from fairdeploy.reporting.page.page import render_page
from fairdeploy.reporting.quantities import as_fast, percent, quality_name

Row = Mapping[str, Any]

# What a close-up shows, in shares of right answers below the best; at least three networks.
_CLOSE = 0.05
_MIN_CLOSE = 3
_TOP = 1.0
# One unsteady race must not squeeze all others: beyond this, times the highest, intervals are cut.
_HEADROOM = 1.2
_MAX_UNSEEN_LOSS = 0.02
"""With more than that in doubt, that no loss was seen says nothing."""
_PARTS = {
    "Result": "sweep_result.html",
    "In short": "sweep_tiles.html",
    "Quality": "sweep_quality.html",
    "Latency": "sweep_latency.html",
    "Networks": "sweep_networks.html",
    "Commands": "sweep_commands.html",
    "This run": "sweep_run.html",
}
"""Template of each part, under what it is called where it fails."""


@dataclass(frozen=True, slots=True)
class Plots:
    """A plot with the signs that it has, and a close-up of its top where that is worth it."""

    whole: Markup
    legend: tuple[tuple[str, str], ...]
    close: Markup | None = None


def render_sweep(document: Row) -> str:
    """The whole page as one string; every text from the run is escaped."""
    points = document["points"]
    return render_page(
        _headline(document), _PARTS, "sweep.json",
        doc=document, metric=_metric(document), close_points=f"{100 * _CLOSE:.0f}",
        knee=next((point for point in points if point["is_knee"]), None),
        lossless=_smallest_without_loss(points), fastest=_fastest(points),
        quality_plots=quality_plots, latency_plot=latency_plot, x_title=x_title,
    )  # fmt: skip


def _metric(document: Row) -> Metric:
    return METRICS[document["metric"]]


def _headline(document: Row) -> str:
    """``resnet56: 8 networks from 9.5 % of its parameters``."""
    metric = _metric(document)
    shares = [point["left"][metric.key] for point in document["points"]]
    least = min((share for share in shares if share is not None), default=None)
    number = len(shares) - 1
    return (
        f"{document['model']['name']}: {number} smaller network{'' if number == 1 else 's'}, down "
        f"to {percent(least)} of its {metric.words}"
    )


def _smallest_without_loss(networks: Sequence[Row]) -> Row | None:
    """None where accuracy was not measured, or every smaller network lost some."""
    reaching = [
        point
        for point in networks[1:]
        if (difference := point["difference"])
        and None not in (difference["high"], difference["low"])
        and difference["high"] >= 0
        and difference["low"] >= -_MAX_UNSEEN_LOSS
    ]
    return reaching[-1] if reaching else None


def _fastest(networks: Sequence[Row]) -> Row | None:
    raced = [p for p in networks if p["latency"] and not p["latency"]["is_too_busy"]]
    return max(raced, key=lambda point: float(point["latency"]["speedup"] or 0.0), default=None)


def quality_plots(document: Row) -> Plots:
    """Accuracy against cost; R-Scores that stay where there were no labelled test images."""
    metric = _metric(document).words
    if document["quality"] == "r_mass_kept":
        marks = [
            _mark(
                document, point, *[1.0 - point["r_mass_removed_share"]] * 3, text="of the R-Scores"
            )
            for point in document["points"]
        ]
        whole = frontier_chart(
            marks,
            axis_over([0.0, *(mark.x for mark in marks)]),
            axis_over([mark.y for mark in marks], most=_TOP),
            title=f"R-Scores that stay against {metric}",
            x_title=x_title(document),
            tick_text=_short_percent,
        )
        return Plots(whole, _legend(marks))
    marks = [_accuracy_mark(document, point) for point in document["points"]]
    best = max(mark.y for mark in marks)
    near = [mark for mark in marks if mark.y >= best - _CLOSE]
    title = f"{quality_name(document)} against {metric}"
    close = None
    if _MIN_CLOSE <= len(near) < len(marks):
        close = _accuracy_chart(document, near, f"{title}, close-up")
    return Plots(_accuracy_chart(document, marks, title), _legend(marks, "accuracy"), close)


def latency_plot(document: Row) -> Plots:
    """Latency against cost, both as shares of the original's."""
    raced = [point for point in document["points"] if point["latency"]]
    marks = [_latency_mark(document, point) for point in (document["points"][0], *raced)]
    highest = _HEADROOM * max(mark.y for mark in marks)
    chart = frontier_chart(
        marks,
        axis_over([0.0, *(mark.x for mark in marks)]),
        axis_over([0.0, *(min(mark.high, highest) for mark in marks)]),
        title=f"latency against {_metric(document).words}",
        x_title=x_title(document),
        tick_text=_short_percent,
        level=1.0,
        has_diagonal=True,
    )
    return Plots(chart, _legend(marks, "latency", has_diagonal=True))


def _accuracy_chart(document: Row, marks: Sequence[Mark], title: str) -> Markup:
    values = [value for mark in marks for value in (mark.low, mark.high)]
    has_whole = len(marks) == len(document["points"])
    costs = [mark.x for mark in marks]
    return frontier_chart(
        marks,
        axis_over([0.0, *costs] if has_whole else costs),
        axis_over(values, most=_TOP),
        title=title,
        x_title=x_title(document),
        tick_text=_short_percent,
        level=document["points"][0]["accuracy"]["value"],
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
    share = point["left"][_metric(document).key]
    name, metric = point["budget"] or "original", _metric(document).words
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


def x_title(document: Row) -> str:
    """What the horizontal axis is."""
    verb = "stays" if document["metric"] == "size" else "stay"
    return f"{_metric(document).words} that {verb}"


def _short_percent(share: float) -> str:
    """``40 %``, or ``97.5 %`` where the step asks for it."""
    text = percent(share, 2)
    number, space, sign = text.partition("\N{NO-BREAK SPACE}")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{sign}"


def _legend(
    marks: Sequence[Mark], value: str = "", *, has_diagonal: bool = False
) -> tuple[tuple[str, str], ...]:
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
    return tuple((name, text) for name, text, is_shown in signs if is_shown)
