"""Operators in ``report.json``: what each takes, and why the network is not faster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fairdeploy.records import LatencyComparison, OperatorComparison

SHORT_OF_PROMISE = 0.85
"""A speed-up below this share of what the MACs promise deserves a word on the terminal."""


def operator_rows(operators: OperatorComparison | None) -> dict[str, Any] | None:
    """Times by operator and by module, with their shares and ratios."""
    if operators is None:
        return None
    both = (operators.original_ms, operators.shrunk_ms)
    return {
        "original_ms": operators.original_ms,
        "shrunk_ms": operators.shrunk_ms,
        "num_runs": operators.num_runs,
        "by_operator": [
            _compared(asdict(row), both) | {"lost_ms": row.lost_ms} for row in operators.operators
        ],
        "by_module": [_compared(asdict(row), both) for row in operators.modules],
    }


def why_not_faster(
    latency: LatencyComparison | None, operators: OperatorComparison | None
) -> dict[str, Any] | None:
    """What the MACs promised, what came of it, and what stands in the way."""
    if latency is None or operators is None:
        return None
    promised = operators.promised_speedup
    return {
        "promised_speedup": promised,
        "speedup": latency.speedup,
        "is_too_busy": latency.is_too_busy,
        "is_slower": latency.speedup_high < 1 and not latency.is_too_busy,
        "is_short": latency.speedup < max(1.0, SHORT_OF_PROMISE * promised),
        "obstacles": [asdict(obstacle) for obstacle in operators.obstacles],
    }


def _compared(row: dict[str, Any], totals: tuple[float, float]) -> dict[str, Any]:
    """A row with its shares of both networks, and how many times as fast it got."""
    before, after = row["original_ms"], row["shrunk_ms"]
    return row | {
        "original_share": before / totals[0] if totals[0] else None,
        "shrunk_share": after / totals[1] if totals[1] else None,
        "speedup": before / after if after else None,
    }
