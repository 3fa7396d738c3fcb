"""Costs as text for messages: ``0.80 M of 25.6 M parameters``."""

from __future__ import annotations

import math

from fairdeploy.records.metrics import METRICS

_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def describe_range(metric: str, smallest: float, original: float) -> str:
    """What the smallest allowed plan costs, against the original.

    The percentage is rounded up, so that typing it as a budget works.
    """
    return (
        f"the smallest allowed plan keeps {share_text(smallest, original)} "
        f"({_short(smallest)} of {_short(original)} {METRICS[metric].unit})"
    )


def share_text(amount: float, original: float) -> str:
    """A percentage of the original, rounded up."""
    percent = math.ceil(amount / original * 1000) / 10 if original else 100.0
    return f"{percent:.1f}%"


def _short(amount: float) -> str:
    """Three digits and a decimal prefix."""
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{_three_digits(amount / size)}{prefix}"
    return f"{amount:.3g}"


def _three_digits(number: float) -> str:
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"
