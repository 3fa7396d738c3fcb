from __future__ import annotations

import re

import pytest

from fairdeploy.reporting.page.frontier_chart import Axis, Mark, axis_over, frontier_chart


def mark(x: float, y: float, *, half: float = 0.0, is_joined: bool = True, label: str = "") -> Mark:
    return Mark(x, y, y - half, y + half, f"at {x:g}", "front", is_joined, label)


def draw(*marks: Mark, **changes: object) -> str:
    axis = Axis((0.0, 0.5, 1.0))
    options = {"title": "y against x", "x_title": "cost", "tick_text": str} | changes
    return frontier_chart(marks, axis, axis, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "most", "ticks"),
    [
        ((0.0, 1.0), 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ((0.702, 0.991), 1.0, (0.7, 0.8, 0.9, 1.0)),
        ((0.962, 0.993), 1.0, (0.96, 0.97, 0.98, 0.99, 1.0)),
        ((0.0, 1.19), 9.0, (0.0, 0.5, 1.0, 1.5)),
        ((0.5, 0.5), 1.0, (0.5, 0.51)),
    ],
)
def test_axis_has_round_ticks_around_the_values(
    values: tuple[float, ...], most: float, ticks: tuple[float, ...]
) -> None:
    axis = axis_over(values, most)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.share(ticks[0]) == 0
    assert axis.share(ticks[-1]) == pytest.approx(1)


def test_marks_lie_where_their_numbers_say() -> None:
    # 300 pixels high, 12 of them kept free above and below.
    html = draw(mark(0.0, 0.0), mark(0.25, 0.5), mark(1.0, 1.0))
    places = re.findall(r'<svg x="([\d.]+)%" y="([\d.]+)"', html)
    assert places == [("0.00", "288.0"), ("25.00", "150.0"), ("100.00", "12.0")]


def test_whisker_spans_the_interval_and_is_left_out_where_there_is_none() -> None:
    html = draw(mark(0.5, 0.5, half=0.25), mark(0.7, 0.5))
    spans = re.findall(r'class="whisker front" x1="0" y1="([-\d.]+)" x2="0" y2="([-\d.]+)"', html)
    assert spans == [("-69.0", "69.0")]


def test_line_joins_the_frontier_from_left_to_right() -> None:
    html = draw(mark(1.0, 0.9), mark(0.5, 0.2, is_joined=False), mark(0.25, 0.5))
    lines = re.findall(r'class="frontier" x1="([\d.]+)%" x2="([\d.]+)%"', html)
    assert lines == [("25.00", "100.00")]


def test_label_has_a_ring_lies_on_top_and_stays_on_the_chart() -> None:
    html = draw(mark(1.0, 0.0, label="knee"), mark(0.5, 0.5))
    assert html.count('class="ring front"') == 1
    assert html.index("at 0.5") < html.index("at 1")
    text = re.search(r'<text class="mark-label" y="([-\d.]+)" text-anchor="(\w+)">knee', html)
    assert text is not None
    assert float(text[1]) < 0  # above the mark, which is at the bottom
    assert text[2] == "end"
    centred = draw(mark(0.5, 1.0, label="knee"))
    assert 'y="28.0" text-anchor="middle">knee' in centred


def test_dashed_level_and_diagonal_are_drawn_where_asked() -> None:
    html = draw(mark(0.5, 0.5), level=0.5, has_diagonal=True)
    assert 'class="tolerance" x1="0%" x2="100%" y1="150.0" y2="150.0"' in html
    assert 'class="diagonal" x1="0.00%" x2="100.00%" y1="288.0" y2="12.0"' in html
    assert "tolerance" not in draw(mark(0.5, 0.5))


def test_text_of_marks_is_escaped() -> None:
    html = draw(Mark(0.5, 0.5, 0.5, 0.5, "<script>", "front", True, "<b>"))
    assert "<script>" not in html
    assert "<b>" not in html
