"""``report.html``: the run on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from fairdeploy.records import LatencyComparison, RunRecord
from fairdeploy.records.accuracy import STEPS
from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.page.page import draw, render_page
from fairdeploy.reporting.quantities import percent, share_of

Row = Mapping[str, Any]
MAX_BARS = 60
MAX_CURVES = 60
MAX_OPERATORS = 60
# Beyond this percentile single slow calls would squeeze the rest of the histogram together.
_HISTOGRAM_PERCENTILE = 98
_PARTS = {
    "Result": "result.html",
    "Checks": "checks.html",
    "The network": "network.html",
    "Accuracy": "accuracy.html",
    "Changed answers": "changes.html",
    "Latency": "latency.html",
    "Latency budget": "latency_search.html",
    "Operators": "operators.html",
    "Channel multiples": "rounding.html",
    "Blocks": "blocks.html",
    "Kept units": "kept.html",
    "How much went": "rule.html",
    "Theory": "theory.html",
    "What stays": "frozen.html",
    "Chain": "chain.html",
    "Files": "files.html",
    "This run": "run.html",
}
"""Template of each part, under what it is called where it fails."""
_START, _END, _MAIN_END = "<!--chain-->", "<!--/chain-->", "</main>"


def render_html(record: RunRecord) -> str:
    """The whole page as one string; every text from the run is escaped."""
    values = {"doc": record.document, "curves": record.tod_curves, "race": record.latency}
    return render_page(headline(record.document), _PARTS, "report.json", **TOOLS, **values)


def part(title: str, **values: Any) -> Markup:
    """One part of the page."""
    return draw(_PARTS[title], title, **TOOLS, **values)


def with_chain(page: str, document: Row) -> str:
    """A page that was written earlier, with the chain as it is now."""
    chain = part("Chain", doc=document)
    before, start, rest = page.partition(_START)
    if not start:
        before, end, after = page.rpartition(_MAIN_END)
        return f"{before}{chain}{end}{after}"
    _, _, after = rest.partition(_END)
    return f"{before}{chain}{after}"


def headline(document: Row) -> str:
    """``resnet56 with 39.82 % of its parameters``."""
    model = document["model"]
    share = share_of(model["shrunk"]["params"], model["original"]["params"])
    return f"{model['name']} with {percent(share, 2)} of its parameters"


def checks(document: Row) -> tuple[list[str], list[str]]:
    """Names of the checks that did not pass, and in words what holds if all did."""
    gate, proof, parity = document["max_drop"], document["proof"], document["parity"]
    failed = [
        f"{METRICS[row['metric']].words} budget" for row in document["budget"] if not row["met"]
    ]
    if gate and not gate["passed"]:
        failed.append(f"drop of accuracy on the {gate['images']} images")
    if not proof["passed"]:
        failed.append("proof of exact removal")
    failed += [
        f"parity of {row['artifact']} at batch {row['batch']}"
        for row in parity
        if not row["passed"]
    ]
    promises = {
        "the budget is met": document["budget"],
        "the removal is proved exact": not proof["num_coupled_norms"],
        "the removal is proved exact, layer norms apart": proof["num_coupled_norms"],
        "the accuracy stays within the drop allowed": gate,
        "the exported file agrees with torch": parity,
    }
    return failed, [text for text, holds in promises.items() if holds]


def speed_remark(latency: Row) -> str:
    """Said of a speed-up that is none, or none for sure."""
    low, high = latency["speedup_low"], latency["speedup_high"]
    if low is None or high is None or low > 1 or latency["is_too_busy"]:
        return ""
    return ": slower than the original" if high < 1 else ": no clear difference"


def accuracy_bars(accuracy: Row) -> tuple[dict[str, Row], tuple[float, float]]:
    """The estimate after each step that was measured, and an axis that holds all intervals."""
    found = {step: accuracy[step] for step in STEPS if accuracy.get(step)}
    low = min((row["low"] for row in found.values()), default=0.0)
    high = max((row["high"] for row in found.values()), default=1.0)
    margin = max(0.02, 0.08 * (high - low))
    return found, (max(low - margin, 0.0), min(high + margin, 1.0))


def last_step(accuracy: Row) -> Row | None:
    """The estimate of what is delivered, as far as it was measured."""
    _, *later = STEPS
    return next((accuracy[step] for step in reversed(later) if accuracy.get(step)), None)


def worst_of(parity: Sequence[Row]) -> Row:
    """The row with the largest error; none is larger than what is not a number."""
    return max(
        parity, key=lambda row: (row["max_relative_error"] is None, row["max_relative_error"])
    )


def worst_first(classes: Sequence[Row]) -> list[Row]:
    """Classes by how much accuracy they lost."""
    return sorted(classes, key=lambda row: row["after"] - row["before"])


def latency_scale(race: LatencyComparison) -> tuple[float, float]:
    """An axis for the times of both networks."""
    both = (race.original.raw_ms, race.shrunk.raw_ms)
    low = min(map(min, both))
    high = max(float(np.percentile(times, _HISTOGRAM_PERCENTILE)) for times in both)
    margin = 0.05 * (high - low) or 0.05 * high
    return max(low - margin, 0.0), high + margin


def num_beyond(times_ms: Sequence[float], scale: tuple[float, float]) -> int:
    """How many calls were slower than what is shown."""
    return sum(time > scale[1] for time in times_ms)


def slowest(rows: Sequence[Row]) -> list[Row]:
    """The rows that take most, in their own order; all of them are in ``report.json``."""
    places = sorted(range(len(rows)), key=lambda place: -rows[place]["shrunk_ms"])[:MAX_OPERATORS]
    return [rows[place] for place in sorted(places)]


def num_narrower(groups: Sequence[Row]) -> int:
    """How many groups lost units."""
    return sum(row["kept"] < row["units"] for row in groups)


def lost_most(groups: Sequence[Row]) -> list[Row]:
    """The groups whose curves are shown, in their own order."""
    chosen = sorted(groups, key=lambda row: row["kept"] - row["units"])[:MAX_CURVES]
    names = {row["name"] for row in chosen}
    return [row for row in groups if row["name"] in names]


def by_reason(frozen: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Reason, number of parts and their parameters, most parameters first."""
    params: dict[str, list[int]] = defaultdict(list)
    for row in frozen:
        params[row["frozen_reason"]].append(row["params"])
    rows = [(reason, len(found), sum(found)) for reason, found in params.items()]
    return sorted(rows, key=lambda row: -row[2])


TOOLS: dict[str, Any] = {
    tool.__name__: tool
    for tool in (
        accuracy_bars, by_reason, checks, last_step, latency_scale, lost_most, num_beyond,
        num_narrower, slowest, speed_remark, worst_first, worst_of,
    )
} | {"MAX_BARS": MAX_BARS, "MAX_OPERATORS": MAX_OPERATORS}  # fmt: skip
"""What the templates ask."""
