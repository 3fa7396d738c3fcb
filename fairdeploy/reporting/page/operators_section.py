"""Why the network is not faster: what stands in the way, and every operator before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.reporting.page.markup import (
    NOTHING,
    Html,
    details,
    dotted,
    join,
    section,
    table,
    tag,
)
from fairdeploy.reporting.quantities import factor, milliseconds, percent, plural

Row = Mapping[str, Any]

_MAX_ROWS = 60
_MAX_PLACES = 2
_HEADERS = ("original", "shrunk", "share", "faster")


def why_not_faster(document: Row) -> Html:
    """Obstacles with their causes, then times by module and by operator; nothing without them."""
    why, times = document["why_not_faster"], document["operators"]
    if why is None or times is None:
        return NOTHING
    return section(
        "Why not faster",
        _verdict(why),
        _obstacles(why["obstacles"], times["shrunk_ms"]),
        _modules(times["by_module"]),
        _operators(times["by_operator"]),
        lead="If time followed MACs, each operator would take its old time divided by "
        f"{factor(why['promised_speedup'])}. What it takes above that is lost. Times are medians "
        f"of {times['num_runs']} runs from the runtime's own profiler, which adds a little to each "
        "operator.",
    )


def _verdict(why: Row) -> Html:
    got, promised = factor(why["speedup"]), factor(why["promised_speedup"])
    if why["is_slower"]:
        text = f"The shrunk network is slower than the original: {got} its speed"
        return tag("p", tag("b", f"{text}, although its MACs promised {promised}."))
    got = "no claim: the machine was too busy" if why["is_too_busy"] else f"it runs at {got}"
    return tag("p", f"Its MACs promised {promised} the speed of the original; {got}.")


def _obstacles(obstacles: Sequence[Row], shrunk_ms: float) -> Html:
    if not obstacles:
        return tag("p", "No operator takes noticeably longer than its MACs promised.")
    rows = (
        (
            tag("b", row["cause"]),
            join((row["op"], tag("span", _places(row["modules"]), class_="under"))),
            milliseconds(row["original_ms"]),
            milliseconds(row["shrunk_ms"]),
            percent(row["shrunk_ms"] / shrunk_ms, 0),
            milliseconds(row["lost_ms"]),
        )
        for row in obstacles
    )
    headers = ("cause", "operators", "original", "shrunk", "share", "lost")
    sentences = (tag("li", row["text"]) for row in obstacles)
    return join((table(headers, rows, numeric_from=2), details("In words", tag("ul", *sentences))))


def _places(modules: Sequence[str]) -> Html:
    shown = modules[:_MAX_PLACES]
    first, *others = [dotted(module) if module else "the network itself" for module in shown]
    more = len(modules) - _MAX_PLACES
    names = [first, *(part for name in others for part in (", ", name))]
    return join((*names, f" and {more} more" if more > 0 else ""))


def _modules(rows: Sequence[Row]) -> Html:
    lines = [(dotted(row["module"]), *_times(row)) for row in rows]
    return _folded("module", ("module", *_HEADERS), lines, rows)


def _operators(rows: Sequence[Row]) -> Html:
    lines = [
        (
            join((row["op"], tag("span", dotted(row["module"]), class_="under"))),
            *_times(row),
            join((row["cause"] or "", tag("span", row["detail"], class_="under")))
            if row["cause"]
            else "",
        )
        for row in rows
    ]
    return _folded("operator", ("operator", *_HEADERS, "lost to"), lines, rows)


def _times(row: Row) -> tuple[str, str, str, str]:
    return (
        milliseconds(row["original_ms"]),
        milliseconds(row["shrunk_ms"]),
        percent(row["shrunk_share"]),
        factor(row["speedup"]),
    )


def _folded(
    noun: str, headers: Sequence[str], lines: Sequence[Sequence[str]], rows: Sequence[Row]
) -> Html:
    """The rows that take most, in their own order; all of them are in report.json."""
    largest = sorted(range(len(rows)), key=lambda place: -rows[place]["shrunk_ms"])[:_MAX_ROWS]
    title = f"By {noun}"
    if len(rows) > _MAX_ROWS:
        title += f": the {_MAX_ROWS} of {plural(len(rows), noun)} that take most"
    return details(title, table(headers, [lines[place] for place in sorted(largest)]))
