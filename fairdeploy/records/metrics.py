"""What a network costs: each metric once, with its words, units and key in reports.

A metric that is counted needs a row here and its terms in ``graph.cost_terms``; budgets, searches,
sweeps, reports and the command line ask this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal["params", "macs", "size", "latency"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)

_COUNT_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_BYTE_UNITS = {
    "b": 1.0,
    **{"kb": 1e3, "mb": 1e6, "gb": 1e9},
    **{"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that a budget can limit."""

    words: str
    """In a sentence: ``parameters``."""
    title: str
    """Of a row that shows its value for one network."""
    unit: str
    """What is counted: ``3.1 M parameters``, ``12 M bytes``, ``4.5 ms``."""
    shown: Literal["count", "bytes", "milliseconds"]
    """How its values are written in reports."""
    units: Mapping[str, float]
    """What may follow an amount in a budget, in lower case, and its worth."""
    example: str
    key: str
    """In the JSON of a network's costs."""
    is_counted: bool = True
    """Whether it follows from the plan alone; else it is measured on the target."""


_METRICS: Mapping[MetricName, Metric] = {
    "params": Metric(
        "parameters", "parameters", "parameters", "count", _COUNT_UNITS, "params=1.2M", "params"
    ),
    "macs": Metric("MACs", "MACs per image", "MACs", "count", _COUNT_UNITS, "macs=300M", "macs"),
    "size": Metric("size", "bytes", "bytes", "bytes", _BYTE_UNITS, "size=4MB", "size_bytes"),
    "latency": Metric(
        "latency", "latency", "ms", "milliseconds", {"us": 1e-3, "ms": 1.0, "s": 1e3},
        "latency=5ms", "latency_ms", is_counted=False,
    ),
}  # fmt: skip
METRICS: Mapping[str, Metric] = {str(name): row for name, row in _METRICS.items()}
"""By name, which may come from a document."""

COUNTED: tuple[MetricName, ...] = tuple(name for name, row in _METRICS.items() if row.is_counted)
"""What a search or a sweep can go along without measuring."""
