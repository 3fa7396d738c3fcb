"""The plot of a sweep: cost to the right, a measured value upwards, a mark for each network.

As in ``charts``, horizontal places are per cents and vertical ones pixels, so that it fits any
width. Each mark is a little drawing of its own, with its place as its origin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from fairdeploy.reporting.page.charts import NOTHING, tag

MarkKind = Literal["original", "front", "other"]

_HEIGHT, _MARGIN = 300.0, 12.0
_NUM_STEPS = 5
_LABEL_ABOVE, _LABEL_BELOW = 16.0, 28.0
_LOWEST_LABEL = 0.85
# Labels of marks this near to the left or right end reach inwards, to stay on the chart.
_EDGE = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """One network: its cost, its value with an interval, and what is said of it."""

    x: float
    y: float
    low: float
    high: float
    text: str
    """For a mouse or a screen reader."""
    kind: MarkKind
    is_joined: bool
    """A line joins these, from left to right."""
    label: str = ""
    """Written beside a ringed mark; others have no ring."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Ticks at round numbers, the first and last of which bound the chart."""

    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where ``value`` lies, 0 at the first tick and 1 at the last."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def axis_over(values: Sequence[float], most: float = math.inf) -> Axis:
    """An axis of round steps that holds all ``values``; it ends at ``most`` at the latest."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / _NUM_STEPS or 0.01)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, max(last, first + 1) + 1)]
    return Axis(tuple(round(tick, 12) for tick in ticks if tick <= most + 1e-9))


def frontier_chart(
    marks: Sequence[Mark],
    x_axis: Axis,
    y_axis: Axis,
    *,
    title: str,
    x_title: str,
    tick_text: Callable[[float], str],
    level: float | None = None,
    has_diagonal: bool = False,
) -> Markup:
    """The chart with its axes; marks off the axes are left out.

    Args:
        title: What a screen reader says.
        x_title: What the horizontal axis is, written below its end.
        tick_text: Label of a tick on either axis.
        level: A dashed line, at the original's value.
        has_diagonal: A dotted line where both axes have the same value.
    """
    shown = [mark for mark in marks if 0 <= x_axis.share(mark.x) <= 1]
    shown.sort(key=lambda mark: bool(mark.label))  # what has a label lies on top
    front = sorted((mark for mark in shown if mark.is_joined), key=lambda mark: mark.x)
    drawing = tag(
        "svg",
        *(_rule("axis", y_axis, tick) for tick in y_axis.ticks),
        _rule("tolerance", y_axis, level) if level is not None else NOTHING,
        _diagonal(x_axis, y_axis) if has_diagonal else NOTHING,
        *(_segment(a, b, x_axis, y_axis) for a, b in itertools.pairwise(front)),
        *(_drawn(mark, x_axis, y_axis) for mark in shown),
        width="100%", height=f"{_HEIGHT:g}", role="group", aria_label=title,
    )  # fmt: skip
    return tag(
        "div",
        _left_labels(y_axis, tick_text),
        tag(
            "div",
            drawing,
            _bottom_labels(x_axis, tick_text),
            tag("p", x_title, class_="axis-title"),
        ),
        class_="plot",
    )


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _across(share: float) -> str:
    return f"{100 * share:.2f}%"


def _down(axis: Axis, value: float) -> float:
    """Pixels from the top; what is off the axis stays at its end."""
    share = min(max(axis.share(value), 0.0), 1.0)
    return _MARGIN + (_HEIGHT - 2 * _MARGIN) * (1 - share)


def _rule(kind: str, axis: Axis, value: float) -> Markup:
    y = f"{_down(axis, value):.1f}"
    return tag("line", class_=kind, x1="0%", x2="100%", y1=y, y2=y)


def _diagonal(x_axis: Axis, y_axis: Axis) -> Markup:
    low, high = max(x_axis.ticks[0], y_axis.ticks[0]), min(x_axis.ticks[-1], y_axis.ticks[-1])
    return tag(
        "line", class_="diagonal", x1=_across(x_axis.share(low)), x2=_across(x_axis.share(high)),
        y1=f"{_down(y_axis, low):.1f}", y2=f"{_down(y_axis, high):.1f}",
    )  # fmt: skip


def _segment(a: Mark, b: Mark, x_axis: Axis, y_axis: Axis) -> Markup:
    return tag(
        "line", class_="frontier", x1=_across(x_axis.share(a.x)), x2=_across(x_axis.share(b.x)),
        y1=f"{_down(y_axis, a.y):.1f}", y2=f"{_down(y_axis, b.y):.1f}",
    )  # fmt: skip


def _drawn(mark: Mark, x_axis: Axis, y_axis: Axis) -> Markup:
    share, middle = x_axis.share(mark.x), _down(y_axis, mark.y)
    top, bottom = (_down(y_axis, end) - middle for end in (mark.high, mark.low))
    parts = [
        tag("title", mark.text),
        _whisker(mark.kind, top, bottom),
        tag("circle", class_=f"ring {mark.kind}", r=10) if mark.label else NOTHING,
        tag("circle", class_=f"mark {mark.kind}", r=5),
        _label(mark, share, middle, top, bottom) if mark.label else NOTHING,
    ]
    return tag(
        "svg", *parts, x=_across(share), y=f"{middle:.1f}",
        role="img", aria_label=mark.text,
    )  # fmt: skip


def _whisker(kind: str, top: float, bottom: float) -> Markup:
    """A vertical line with a bar at each end; nothing where there is no interval."""
    if bottom - top < 1:
        return NOTHING
    ends = ((0.0, top, 0.0, bottom), (-4.0, top, 4.0, top), (-4.0, bottom, 4.0, bottom))
    return NOTHING.join(
        tag("line", class_=f"whisker {kind}", x1=f"{x1:g}", y1=f"{y1:.1f}", x2=f"{x2:g}",
            y2=f"{y2:.1f}")
        for x1, y1, x2, y2 in ends
    )  # fmt: skip


def _label(mark: Mark, share: float, middle: float, top: float, bottom: float) -> Markup:
    """Below the mark and its whisker, where other marks are rarely; above them near the bottom."""
    below = max(_LABEL_BELOW, bottom + 20)
    is_low = middle + below > _LOWEST_LABEL * _HEIGHT
    anchor = "start" if share < _EDGE else "end" if share > 1 - _EDGE else "middle"
    return tag(
        "text",
        mark.label,
        class_="mark-label",
        y=f"{min(-_LABEL_ABOVE, top - _LABEL_ABOVE / 2) if is_low else below:.1f}",
        text_anchor=anchor,
    )


def _left_labels(axis: Axis, text: Callable[[float], str]) -> Markup:
    labels = (
        tag("text", text(tick), class_="tick", x="100%", y=f"{_down(axis, tick) + 5:.1f}",
            text_anchor="end")
        for tick in axis.ticks
    )  # fmt: skip
    return tag("svg", *labels, width="100%", height=f"{_HEIGHT:g}", aria_hidden="true")


def _bottom_labels(axis: Axis, text: Callable[[float], str]) -> Markup:
    last = len(axis.ticks) - 1
    anchors = {0: "start", last: "end"}
    labels = (
        tag("text", text(tick), class_="tick", x=_across(axis.share(tick)), y=15,
            text_anchor=anchors.get(index, "middle"))
        for index, tick in enumerate(axis.ticks)
    )  # fmt: skip
    return tag("svg", *labels, width="100%", height=20, aria_hidden="true")
