"""How a latency budget was met: every plan that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairdeploy.reporting.page.markup import NOTHING, Html, join, section, table, tag
from fairdeploy.reporting.quantities import milliseconds, percent, seconds

Row = Mapping[str, Any]


def latency_search(search: Row | None) -> Html:
    """The measured plans in their order; nothing where there was no budget of latency."""
    if search is None:
        return NOTHING
    smallest, original = search["range_ms"]
    headers = ("plan", "predicted", "measured", "of the budget", "latency", "to make", "to time")
    return section(
        "Search",
        table(headers, map(_candidate, _numbered(search["candidates"]), search["candidates"])),
        tag("p", f"Ended: {search['ended_because']}.", class_="lead after"),
        lead=f"Plans for {search['budget']}, each raced against the original in turn. Reachable "
        f"are {milliseconds(smallest)} to {milliseconds(original)}. The prediction, from the "
        "runtime's own times of each operator, only proposes; the measurement decides.",
    )


def _numbered(candidates: list[Row]) -> list[str]:
    """1, 2, 3 …, and the word for a fresh measurement of the plan before."""
    names, count = [], 0
    for candidate in candidates:
        count += not candidate["is_confirmation"]
        names.append("measured again" if candidate["is_confirmation"] else str(count))
    return names


def _candidate(name: str, candidate: Row) -> tuple[str, ...]:
    timed = candidate["timed"]
    interval = f"{percent(timed['ratio_low'])} to {percent(timed['ratio_high'])}"
    notes = ["beside the shared tolerance" if candidate["is_detour"] else "", candidate["remark"]]
    remark = tag("span", "; ".join(filter(None, notes)), class_="under") if any(notes) else NOTHING
    return (
        join((name, " ", remark)),
        percent(candidate["predicted_ratio"]),
        join((percent(timed["ratio"]), tag("span", interval, class_="under"))),
        percent(candidate["used"]),
        milliseconds(timed["shrunk_ms"]),
        seconds(timed["seconds_to_make"]),
        seconds(timed["seconds_to_measure"]),
    )
