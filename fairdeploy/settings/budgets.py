"""Budgets as people type them: ``40%``, ``macs=50%``, ``params=1.2M``, ``latency=5ms``.

A bare percentage means parameters. Counts take k, M and G; bytes take kB, MB, GB (powers of ten)
and KiB, MiB, GiB (powers of two); times take us, ms and s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import get_args

from fairdeploy.errors import UsageError
from fairdeploy.records import Budget, MetricName

METRICS: tuple[MetricName, ...] = get_args(MetricName)
EXAMPLES = "40%, latency=60%, macs=50%, params=1.2M or size=4MB"

_COUNT_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_UNITS: dict[MetricName, dict[str, float]] = {
    "params": _COUNT_UNITS,
    "macs": _COUNT_UNITS,
    "size": {
        "b": 1.0,
        **{"kb": 1e3, "mb": 1e6, "gb": 1e9},
        **{"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    },
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
}
_EXAMPLE_OF: dict[MetricName, str] = {
    "params": "params=1.2M",
    "macs": "macs=300M",
    "size": "size=4MB",
    "latency": "latency=5ms",
}
# ``params=40`` is 40 parameters, which nobody means.
_LIKELY_PERCENT = 100.0
_ALL = 100.0
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµ]*|%)", re.IGNORECASE)


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Read budgets; each text may be a comma-separated list. All of them must hold.

    Raises:
        UsageError: There is none, one makes no sense, or two limit the same metric.
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"no budget given; use for example --budget 40% ({EXAMPLES})")
    budgets = tuple(_parse_one(part) for part in parts)
    first_by_metric: dict[str, Budget] = {}
    for budget in budgets:
        first = first_by_metric.setdefault(budget.metric, budget)
        if first is not budget:
            raise UsageError(
                f"two budgets for {budget.metric}: '{first.text}' and '{budget.text}'; give one"
            )
    return budgets


def latency_apart(budgets: Sequence[Budget]) -> tuple[tuple[Budget, ...], Budget | None]:
    """Budgets that kept counts decide, and the one that only a measurement can."""
    counted = tuple(budget for budget in budgets if budget.metric != "latency")
    measured = [budget for budget in budgets if budget.metric == "latency"]
    return counted, measured[0] if measured else None


def _parse_one(text: str) -> Budget:
    name, equals, amount = text.rpartition("=")
    match = _QUANTITY.fullmatch(amount.strip())
    metric = _metric(name.strip(), text) if equals else None
    if match is None:
        raise UsageError(f"budget '{text}' is not an amount; use for example {EXAMPLES}")
    value, unit = float(match[1]), match[2].lower().replace("µ", "u")
    if not math.isfinite(value) or value <= 0:
        fault = "above zero" if value <= 0 else "finite"
        raise UsageError(f"budget '{text}' is not {fault}; use for example {EXAMPLES}")
    if metric is None:
        metric = _metric_of_bare(text, match[1], unit)
    canonical = f"{metric}={match[1]}{match[2]}"
    if unit == "%":
        return _percentage(metric, canonical, value)
    return Budget(metric, canonical, absolute=_absolute(metric, text, value, unit))


def _metric(name: str, text: str) -> MetricName:
    """The metric before the equals sign."""
    for metric in METRICS:
        if name.lower() == metric:
            return metric
    if name.lower() == "flops":
        raise UsageError(f"budget '{text}': write macs instead of flops (1 MAC = 2 FLOPs)")
    raise UsageError(f"no metric '{name}' in budget '{text}'; use {_either(METRICS)}")


def _metric_of_bare(text: str, number: str, unit: str) -> MetricName:
    """The metric of an amount without a name: parameters for a percentage, else an error."""
    if unit == "%":
        return "params"
    if unit == "":
        raise UsageError(f"budget '{text}' has no unit; did you mean '{number}%'?")
    fitting = [metric for metric in METRICS if unit in _UNITS[metric]]
    if not fitting:
        raise UsageError(f"budget '{text}' has unit '{unit}'; use for example {EXAMPLES}")
    choices = _either([f"{metric}={text.replace(' ', '')}" for metric in fitting])
    raise UsageError(f"budget '{text}' does not say what it limits; write {choices}")


def _percentage(metric: MetricName, text: str, percent: float) -> Budget:
    if percent >= _ALL:
        raise UsageError(
            f"budget '{text}' leaves the network as it is; a budget is a share of the original's "
            f"{metric}, below 100%"
        )
    return Budget(metric, text, fraction=percent / _ALL)


def _absolute(metric: MetricName, text: str, value: float, unit: str) -> float:
    if unit not in _UNITS[metric]:
        wrong = f"unit '{unit}'" if unit else "no unit"
        raise UsageError(
            f"budget '{text}' has {wrong}; write for example {_EXAMPLE_OF[metric]} or {metric}=40%"
        )
    if unit == "" and value <= _LIKELY_PERCENT:
        share = value * _ALL if value < 1 else value
        raise UsageError(f"budget '{text}' has no unit; did you mean '{metric}={share:g}%'?")
    return value * _UNITS[metric][unit]


def _either(choices: Sequence[str]) -> str:
    """``a, b or c``."""
    *rest, last = choices
    return f"{', '.join(rest)} or {last}" if rest else last
