"""Numbers and facts as people read them; None, a value that is not a number, is a dash.

Page, card and terminal only arrange what is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairdeploy.records.metrics import METRICS

MISSING = "\N{EN DASH}"
NO_CLAIM = "no claim: machine too busy"
"""Of the speed, where the interval is so wide that it says little."""
TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_REPAIRED = {
    "least_squares": "after repair by least squares",
    "distil": "after repair by least squares and distillation",
    "batchnorm": "after renewing the batch norms",
    "none": "without repair",
}


def quality_name(document: Mapping[str, Any]) -> str:
    """What the figure that judges a document's networks is called: ``accuracy`` of classes."""
    task = document.get("task") or {}
    has_own = task.get("name") not in (None, "classification", "imitation", "unknown")
    return str(task["quality"]) if has_own else "accuracy"


def repaired(recovery: str) -> str:
    """``after repair by least squares``, for a recovery method."""
    return _REPAIRED.get(recovery, f"after {recovery}")


def amount(metric: str, value: float | None) -> str:
    """A value in the unit of its metric."""
    show = {"count": count, "bytes": size, "milliseconds": milliseconds}
    return show[METRICS[metric].shown](value)


def count(value: float | None) -> str:
    """``855,770`` up to a million, then ``1.23 M``, ``4.10 G``."""
    if value is None:
        return MISSING
    return _scaled(value, (("G", 1e9), ("M", 1e6))) or f"{value:,.0f}"


def size(num_bytes: float | None) -> str:
    """Bytes in powers of ten: ``3.42 MB``."""
    if num_bytes is None:
        return MISSING
    return (
        _scaled(num_bytes, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))) or f"{num_bytes:.0f}{_SPACE}B"
    )


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits in the largest unit that fits, or an empty string."""
    for unit, worth in units:
        if value >= worth:
            scaled = value / worth
            digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
            return f"{scaled:,.{digits}f}{_SPACE}{unit}"
    return ""


def percent(share: float | None, digits: int = 1) -> str:
    """``39.8 %`` of 0.398."""
    return MISSING if share is None else f"{100 * share:.{digits}f}{_SPACE}%"


def share_of(part: float | None, whole: float | None) -> float | None:
    """``part / whole``, or None where that means nothing."""
    return None if part is None or not whole else part / whole


def milliseconds(value: float | None) -> str:
    """``0.412 ms``, ``12.3 ms``, ``1,240 ms``."""
    if value is None:
        return MISSING
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}{_SPACE}ms"


def factor(value: float | None) -> str:
    """A ratio: 1.42 and the sign for "times"."""
    return MISSING if value is None else f"{value:.2f}{TIMES}"


def as_fast(latency: Mapping[str, Any], than: str = "") -> str:
    """``1.42x as fast``, or that the race allows no claim; from a row of any of our documents."""
    return NO_CLAIM if latency["is_too_busy"] else f"{factor(latency['speedup'])} as fast{than}"


def decided_by(method: Mapping[str, Any]) -> str:
    """Which signals and which rule decided."""
    protects = "protects too" if method["protect"] == "none" else f"{method['protect']} protects"
    return f"{method['signal']} removes, {protects}, {method['allocation']} shares out"


def not_shown(problem: Exception) -> str:
    """What stands in the place of a part of a page that failed."""
    return (
        f"This part cannot be shown ({type(problem).__name__}: {problem}); its numbers are in the "
        "JSON file beside this one. Please report this."
    )


def budget_verdict(row: Mapping[str, Any]) -> str:
    """Whether a budget is met, from its row."""
    if row.get("is_too_busy"):
        return "not shown to be met: the machine was too busy"
    return "met" if row["met"] else "not met"


def error_text(value: float | None) -> str:
    """A relative error: ``3.1e-07``; ``not a number`` where the outputs were NaN or infinite."""
    return "not a number" if value is None else f"{value:.1e}"


def short(value: float | None) -> str:
    """Three digits of any number: ``0.123``, ``1.2e-05``."""
    return MISSING if value is None else f"{value:.3g}"


def points(difference: float | None) -> str:
    """A signed difference of two shares, in percentage points."""
    if difference is None:
        return MISSING
    text = f"{100 * difference:+.1f}"
    return ("±0.0" if text in {"+0.0", "-0.0"} else text.replace("-", _MINUS)) + f"{_SPACE}points"


def seconds(value: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``."""
    if value is None:
        return MISSING
    if value < 10:
        return f"{value:.1f}{_SPACE}s"
    whole = round(value)
    return f"{whole}{_SPACE}s" if whole < 120 else f"{whole // 60}{_SPACE}min {whole % 60}{_SPACE}s"


def signed(value: float) -> str:
    """``+0.12``: two digits of any number with its sign."""
    return f"{value:+.2g}".replace("-", _MINUS)


def plural(number: int, noun: str) -> str:
    """``1 group``, ``3 groups``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def verdict_text(row: Mapping[str, Any]) -> str:
    """``accuracy 62.5 %, now 64.0 % on 500 selection images (+1.5 points, +0.3 to +2.7)``."""
    name, shown = _MEASURES[row["measure"]]
    images = f"{row['num_images']:,} {'calibration' if row['are_fitted'] else 'selection'} images"
    if row["outcome"] == "kept":
        return (
            f"nothing was better on {images} ({name} {shown(row['before'])}); the weights stay as "
            "they were"
        )
    gain = ""
    if row["measure"] != "error":
        gain = f" ({points(row['after'] - row['before'])}{_interval(row)})"
    chance = "" if row["outcome"] == "improved" else ", which may be chance"
    return f"{name} {shown(row['before'])}, now {shown(row['after'])} on {images}{gain}{chance}"


def _interval(row: Mapping[str, Any]) -> str:
    return f", interval {points(row['low'])} to {points(row['high'])}"


def change_text(row: Mapping[str, Any], *, with_interval: bool = True) -> str:
    """``fell: -2.30 points``: a paired difference of accuracies in a word and with its sign."""
    value = row["value"]
    word = "fell" if value < 0 else "rose" if value > 0 else "stayed"
    chance = "" if row["low"] > 0 or row["high"] < 0 or not value else ", which may be chance"
    interval = f" ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})" if with_interval else ""
    return f"{word}: {100 * value:+.2f} points{interval}{chance}"


def needed_text(gate: Mapping[str, Any]) -> str:
    """How many images the asked drop needs, and what was left open for want of them."""
    needed, count = gate["images_needed"], gate["difference"]["num_images"]
    if needed is None:
        return "no number of images shows that nothing at all is lost"
    enough = "there are" if count >= needed else "there are only"
    text = f"to tell a drop of {100 * gate['max_drop']:g} % takes about {needed:,} images here; "
    text += f"{enough} {count:,}"
    if (open_one := gate["undecided"]) is not None:
        text += (
            f", which leaves open whether {open_one['budget']} would do: "
            f"accuracy {change_text(open_one['difference'])}"
        )
    return text


ORIGINS = {
    "profile": "as the target's profile says",
    "--round-to": "as asked with --round-to",
    "not measured": "the default: it was not measured on this target",
    "budget": "since with the coarser ones that the target likes the budget is out of reach",
}


def multiple_text(row: Mapping[str, Any]) -> str:
    """``multiples of 16, measured on the target by this run``."""
    if row["source"] == "measured":
        when = "by an earlier run" if row["is_cached"] else "by this run"
        return f"multiples of {row['number']}, measured on the target {when}"
    counts = "any count" if row["number"] == 1 else f"multiples of {row['number']}"
    return f"{counts}, {ORIGINS[row['source']]}"


_MEASURES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", percent),
    "agreement": ("same class as the original", percent),
    "error": ("error against the original", error_text),
}
