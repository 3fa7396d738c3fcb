"""Small inline SVG charts that fit any width.

Horizontal places are per cents of the chart and vertical ones pixels, so that nothing is squeezed
on a phone. Colours and fonts come from the page's style sheet through the class names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

NOTHING = Markup()

_MAX_CURVE_POINTS = 160
_EDGE = 2.0  # per cent kept free left and right, so that no mark is cut
_TOD_HEIGHT, _TOD_MARGIN = 84, 5


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element; what is not markup already is escaped.

    ``class_`` stands for ``class``, ``_`` in a name for ``-``; None is left out. Keys that SVG
    spells in camel case are given as they are.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{NOTHING.join(children)}</{name}>")


def share_bar(share: float, label: str, *, is_frozen: bool = False) -> Markup:
    """A horizontal bar filled to ``share`` of its width."""
    filled = 100 * min(max(share, 0.0), 1.0)
    return _svg(
        10,
        label,
        tag("rect", class_="track", width="100%", height=10, rx=3),
        tag(
            "rect", class_="fill frozen" if is_frozen else "fill",
            width=f"{filled:.2f}%", height=10, rx=3,
        ),
        class_="bar",
    )  # fmt: skip


def interval_bar(
    estimate: tuple[float, float, float], scale: tuple[float, float], label: str, kind: str
) -> Markup:
    """A dot with its interval, (low, value, high), on an axis from ``scale[0]`` to ``scale[1]``."""
    left, middle, right = (f"{_place(x, scale):.2f}%" for x in estimate)
    return _svg(
        22,
        label,
        tag("line", class_="axis", x1="0%", x2="100%", y1=11, y2=11),
        tag("line", class_=f"interval {kind}", x1=left, x2=right, y1=11, y2=11),
        tag("circle", class_=f"dot {kind}", cx=middle, cy=11, r=5),
    )


def tod_chart(
    curve: NDArray[np.float64], tolerance: float, prefix_length: int, num_removed: int, label: str
) -> Markup:
    """ToD(k) over k = 1 to N; a line at the tolerance, a mark at the chosen k, a removed area."""
    scale = (0.0, float(max(len(curve), 1)))
    marks = [
        tag("rect", class_="gone", y=_TOD_MARGIN, height=_down(0) - _TOD_MARGIN, x=f"{_EDGE}%",
            width=f"{_place(num_removed, scale) - _EDGE:.2f}%"),
        _level(_down(0), "axis"),
        _level(_down(tolerance), "tolerance"),
        _tod_path(curve, scale),
    ]  # fmt: skip
    if prefix_length:
        place, height = _place(prefix_length, scale), _down(float(curve[prefix_length - 1]))
        marks.append(
            tag("circle", class_="dot shrunk", cx=f"{place:.2f}%", cy=f"{height:.1f}", r=4.5)
        )
    return _svg(_TOD_HEIGHT, label, *marks)


def latency_histogram(
    times_ms: Sequence[float], scale: tuple[float, float], median_ms: float, label: str, kind: str
) -> Markup:
    """How often each latency occurred, with a line at the median; slower ones are left out."""
    height, num_bins = 72.0, 48
    counts, _ = np.histogram(times_ms, bins=num_bins, range=scale)
    tallest = max(int(counts.max(initial=0)), 1)
    width = (100 - 2 * _EDGE) / num_bins
    bars = [
        tag(
            "rect", class_=f"bin {kind}", x=f"{_EDGE + index * width:.2f}%",
            y=f"{height * (1 - number / tallest):.1f}", width=f"{width * 0.9:.2f}%",
            height=f"{height * number / tallest:.1f}", rx=1,
        )
        for index, number in enumerate(counts) if number
    ]  # fmt: skip
    middle = f"{_place(median_ms, scale):.2f}%"
    return _svg(
        height,
        label,
        *bars,
        tag("line", class_="axis", x1="0%", x2="100%", y1=height - 0.5, y2=height - 0.5),
        tag("line", class_="median", x1=middle, x2=middle, y1=0, y2=height),
    )


def ticks(scale: tuple[float, float]) -> list[float]:
    """Both ends and the middle."""
    return [float(x) for x in np.linspace(*scale, 3)]


def axis_labels(scale: tuple[float, float], texts: Sequence[str]) -> Markup:
    """Evenly spaced labels under charts that share ``scale``."""
    places = np.linspace(*scale, len(texts))
    anchors = ["start", *["middle"] * (len(texts) - 2), "end"]
    return _svg(
        18,
        None,
        *(
            tag("text", text, class_="tick", x=f"{_place(x, scale):.2f}%", y=13, text_anchor=anchor)
            for x, text, anchor in zip(places, texts, anchors, strict=True)
        ),
    )


def _tod_path(curve: NDArray[np.float64], scale: tuple[float, float]) -> Markup:
    """The curve, drawn in per cents across; its line keeps its width when it is stretched."""
    num_points = min(len(curve), _MAX_CURVE_POINTS)
    ks = np.unique(np.linspace(1, len(curve), num_points).round().astype(int))
    steps = " ".join(f"L{_place(k, scale):.1f} {_down(float(curve[k - 1])):.1f}" for k in ks)
    return tag(
        "svg",
        tag("path", class_="curve", d=f"M{_EDGE} {_down(0):.1f} {steps}"),
        viewBox=f"0 0 100 {_TOD_HEIGHT}", preserveAspectRatio="none",
        width="100%", height=_TOD_HEIGHT,
    )  # fmt: skip


def _level(height: float, kind: str) -> Markup:
    return tag(
        "line", class_=kind, x1=f"{_EDGE}%", x2=f"{100 - _EDGE}%",
        y1=f"{height:.1f}", y2=f"{height:.1f}",
    )  # fmt: skip


def _down(tod: float) -> float:
    """Pixels from the top of a ToD chart."""
    return _TOD_MARGIN + (_TOD_HEIGHT - 2 * _TOD_MARGIN) * (1 - tod)


def _place(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    share = (value - low) / (high - low) if high > low else 0.5
    return _EDGE + (100 - 2 * _EDGE) * min(max(share, 0.0), 1.0)


def _svg(height: float, label: str | None, *marks: Markup, class_: str | None = None) -> Markup:
    """``label`` is what a screen reader says and a mouse shows; None hides the chart from both."""
    title = tag("title", label) if label else NOTHING
    return tag(
        "svg", title, *marks, width="100%", height=f"{height:g}", class_=class_,
        role="img" if label else None, aria_label=label, aria_hidden=None if label else "true",
    )  # fmt: skip
