from __future__ import annotations

import re

import numpy as np

from fairdeploy.reporting.page.charts import (
    axis_labels,
    interval_bar,
    latency_histogram,
    share_bar,
    tod_chart,
)


def numbers(html: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, html)]


def test_share_bar_is_filled_by_its_share_and_never_overflows() -> None:
    assert 'class="fill" width="25.00%"' in share_bar(0.25, "a quarter")
    assert 'class="fill" width="100.00%"' in share_bar(1.7, "too much")
    assert 'aria-label="a quarter"' in share_bar(0.25, "a quarter")


def test_interval_bar_puts_the_value_between_its_ends() -> None:
    html = interval_bar((0.25, 0.5, 1.0), (0.0, 1.0), "x", "shrunk")
    assert 'x1="26.00%" x2="98.00%"' in html
    assert 'cx="50.00%"' in html


def test_interval_bar_stays_inside_when_a_value_is_off_the_scale() -> None:
    html = interval_bar((-5.0, 0.5, 9.0), (0.0, 1.0), "x", "shrunk")
    assert 'x1="2.00%" x2="98.00%"' in html


def test_tod_chart_marks_the_chosen_k_on_the_curve() -> None:
    curve = np.array([0.0, 0.5, 1.0, 1.0])
    html = tod_chart(curve, 0.5, 2, 1, "x")
    assert 'cx="50.00%" cy="42.0"' in html
    assert numbers(html, r'class="gone"[^>]*width="([\d.]+)%"') == [24.0]
    assert numbers(html, r'class="tolerance"[^>]*y1="([\d.]+)"') == [42.0]


def test_tod_chart_has_no_mark_when_nothing_was_allowed_to_go() -> None:
    assert "<circle" not in tod_chart(np.array([1.0, 1.0]), 0.1, 0, 0, "x")


def test_long_curves_are_thinned_out_but_keep_both_ends() -> None:
    html = tod_chart(np.linspace(0, 1, 5000), 0.1, 10, 5, "x")
    points = re.findall(r"L[\d.]+ [\d.]+", html)
    assert len(points) <= 160
    assert points[-1] == "L98.0 5.0"


def test_histogram_bars_are_as_high_as_their_share_of_the_fullest() -> None:
    times = [1.0] * 4 + [1.5] * 2 + [50.0]
    html = latency_histogram(times, (0.9, 2.0), 1.0, "x", "shrunk")
    heights = numbers(html, r'class="bin shrunk"[^>]*? height="([\d.]+)"')
    assert heights == [72.0, 36.0]


def test_axis_labels_stand_at_the_ends_and_between() -> None:
    html = axis_labels((0.0, 10.0), ["0", "5", "10"])
    assert numbers(html, r'x="([\d.]+)%"') == [2.0, 50.0, 98.0]
    assert re.findall(r'text-anchor="(\w+)"', html) == ["start", "middle", "end"]
