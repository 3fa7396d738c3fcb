"""Budgets as people type them: ``40%``, ``macs=50%``, ``params=1.2M``, ``latency=5ms``.

A bare percentage means parameters. Counts take k, M and G; bytes take kB, MB, GB (powers of ten)
and KiB, MiB, GiB (powers of two); times take us, ms and s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from fairdeploy.errors import UsageError
from fairdeploy.records import Budget, MetricName
from fairdeploy.records.method import choice_of
from fairdeploy.records.metrics import METRIC_NAMES, METRICS

EXAMPLES = "40%, latency=60%, macs=50%, params=1.2M or size=4MB"

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
    counted = tuple(budget for budget in budgets if METRICS[budget.metric].is_counted)
    measured = [budget for budget in budgets if not METRICS[budget.metric].is_counted]
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
    metric = choice_of(name.lower(), METRIC_NAMES)
    if metric is not None:
        return metric
    if name.lower() == "flops":
        raise UsageError(f"budget '{text}': write macs instead of flops (1 MAC = 2 FLOPs)")
    raise UsageError(f"no metric '{name}' in budget '{text}'; use {_either(METRIC_NAMES)}")


def _metric_of_bare(text: str, number: str, unit: str) -> MetricName:
    """The metric of an amount without a name: parameters for a percentage, else an error."""
    if unit == "%":
        return "params"
    if unit == "":
        raise UsageError(f"budget '{text}' has no unit; did you mean '{number}%'?")
    fitting = [metric for metric in METRICS if unit in METRICS[metric].units]
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
    if unit not in METRICS[metric].units:
        wrong = f"unit '{unit}'" if unit else "no unit"
        example = METRICS[metric].example
        raise UsageError(
            f"budget '{text}' has {wrong}; write for example {example} or {metric}=40%"
        )
    if unit == "" and value <= _LIKELY_PERCENT:
        share = value * _ALL if value < 1 else value
        raise UsageError(f"budget '{text}' has no unit; did you mean '{metric}={share:g}%'?")
    return value * METRICS[metric].units[unit]


def _either(choices: Sequence[str]) -> str:
    """``a, b or c``."""
    *rest, last = choices
    return f"{', '.join(rest)} or {last}" if rest else last
