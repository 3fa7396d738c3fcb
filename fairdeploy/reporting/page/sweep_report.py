"""``sweep.html``: the frontier on one page that needs no network, on a desk or on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.multiples import multiple_text
from fairdeploy.reporting.page.markup import (
    NOTHING,
    Html,
    details,
    drawn,
    join,
    pill,
    section,
    table,
    tag,
)
from fairdeploy.reporting.page.page import render_page
from fairdeploy.reporting.page.run_section import decided_by, facts, stage_times
from fairdeploy.reporting.page.summary_section import tile, warnings
from fairdeploy.reporting.page.sweep_plots import cost_key, latency_plots, quality_plots
from fairdeploy.reporting.quantities import (
    MISSING,
    as_fast,
    count,
    error_text,
    percent,
    plural,
    points,
    repaired,
    seconds,
    size,
)

Row = Mapping[str, Any]
_MAX_UNSEEN_LOSS = 0.02
"""With more than that in doubt, that no loss was seen says nothing."""


def render_sweep(document: Row) -> str:
    """The whole page as one string; every text from the run is escaped."""
    title = _title(document)
    parts: dict[str, Callable[[], Html]] = {
        "Result": lambda: _header(document, title),
        "In short": lambda: tag("div", *_tiles(document), class_="tiles"),
        "Quality": lambda: quality_plots(document),
        "Latency": lambda: latency_plots(document),
        "Networks": lambda: _points(document),
        "Commands": lambda: _commands(document),
        "This run": lambda: _run(document),
    }
    ending = tag("footer", "Every number on this page, and more, is in sweep.json beside it.")
    main = tag("main", *(drawn(name, draw) for name, draw in parts.items()), ending)
    return render_page(title, main)


def _header(document: Row, title: str) -> Html:
    return tag(
        "header",
        tag("p", "fairdeploy sweep", class_="overline"),
        tag("h1", title),
        tag("p", _verdict(document)),
        warnings(document["warnings"]),
    )


def _title(document: Row) -> str:
    """``resnet56: 8 networks from 9.5 % of its parameters``."""
    shares = [point["left"][cost_key(document)] for point in document["points"]]
    least = min((share for share in shares if share is not None), default=None)
    number = len(shares) - 1
    return (
        f"{document['model']['name']}: {number} smaller network{'' if number == 1 else 's'}, down "
        f"to {percent(least)} of its {METRICS[document['metric']].words}"
    )


def _verdict(document: Row) -> str:
    knee = document["knee"]
    if knee["point"] is None:
        return f"No knee: {knee['reason']}."
    return f"The knee is {_name(_knee(document))}: {knee['reason']}."


def _tiles(document: Row) -> Iterator[Html]:
    key, metric = cost_key(document), METRICS[document["metric"]].words
    networks = document["points"]
    knee = _knee(document)
    if knee is not None:
        yield tile("Knee", percent(knee["left"][key]), f"of the {metric}: {_found(knee)}")
    lossless = _smallest_without_loss(networks)
    if lossless is not None and lossless is not knee:
        yield tile(
            "No measurable loss",
            f"down to {percent(lossless['left'][key])}",
            f"of the {metric}, the smallest network whose answers on the same images show no loss, "
            f"and at most one of {percent(-lossless['difference']['low'])}: {_found(lossless)}",
        )
    raced = [p for p in networks if p["latency"] and not p["latency"]["is_too_busy"]]
    if raced:
        fastest = max(raced, key=lambda point: float(point["latency"]["speedup"]))
        yield tile(
            "Fastest",
            as_fast(fastest["latency"]),
            f"with {percent(fastest['left'][key])} of the {metric}: "
            f"{_found(fastest, with_speed=False)}",
        )
    proofs = [point["proof"] for point in networks if point["proof"]]
    apart = sum(bool(proof["num_coupled_norms"]) for proof in proofs)
    yield tile(
        "Exact removal",
        error_text(max((proof["max_relative_error"] for proof in proofs), default=None)),
        f"Largest relative difference of {plural(len(proofs), 'network')} to the original with the "
        "removed units at zero"
        + (f"; in {apart} of them layer norms apart, as allowed." if apart else "."),
        verdict=pill("proved", is_good=True),
    )


def _smallest_without_loss(networks: Sequence[Row]) -> Row | None:
    """None where accuracy was not measured, or every smaller network lost some."""
    reaching = [
        point
        for point in networks[1:]
        if point["difference"]
        and point["difference"]["high"] >= 0
        and point["difference"]["low"] >= -_MAX_UNSEEN_LOSS
    ]
    return reaching[-1] if reaching else None


def _found(point: Row, *, with_speed: bool = True) -> str:
    """``98.4 % accuracy, 1.57x as fast``."""
    parts = []
    if point["accuracy"]:
        change = ""
        if point["difference"] and point["budget"]:
            change = f" ({points(point['difference']['value'])})"
        parts.append(f"{percent(point['accuracy']['value'])} accuracy{change}")
    else:
        parts.append(f"{percent(point['r_mass_removed_share'])} of the R-Scores gone")
    if point["latency"] and with_speed:
        parts.append(as_fast(point["latency"]))
    return ", ".join(parts)


def _points(document: Row) -> Html:
    headers = ("network", "parameters", "MACs", "size", "accuracy", "latency", "R removed")
    races = document["target"]
    return section(
        "The networks",
        table(headers, (_table_row(point) for point in document["points"])),
        *(tag("p", text, class_="lead after") for text in document["notes"]),
        lead=f"Accuracy {repaired(document['recovery'])} with its 95 % Wilson interval; latency as "
        f"a share of the original's, from races of at most {races['max_seconds']:g} s each, with "
        "its 95 % bootstrap interval. R removed is the share of all R-Scores that went.",
    )


def _table_row(point: Row) -> tuple[Html | str, ...]:
    costs, left = point["costs"], point["left"]
    return (
        join((_name(point), _pills(point))),
        _with_share(count(costs["params"]), left["params"]),
        _with_share(count(costs["macs"]), left["macs"]),
        _with_share(size(costs["size_bytes"]), left["size_bytes"]),
        _accuracy(point["accuracy"]),
        _latency(point["latency"]),
        percent(point["r_mass_removed_share"]),
    )


def _pills(point: Row) -> Html:
    if point["is_knee"]:
        return tag("span", pill("knee", is_good=True), class_="under")
    return tag("span", "frontier", class_="under") if point["non_dominated"] else NOTHING


def _with_share(amount: str, share: float | None) -> Html:
    return join((amount, tag("span", percent(share), class_="under")))


def _accuracy(row: Row | None) -> Html | str:
    if row is None:
        return MISSING
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    return join((percent(row["value"]), tag("span", interval, class_="under")))


def _latency(row: Row | None) -> Html | str:
    if row is None:
        return MISSING
    interval = f"{percent(row['left_low'])} to {percent(row['left_high'])}"
    return join((percent(row["left"]), tag("span", interval, class_="under")))


def _commands(document: Row) -> Html:
    """What to type to have one of the networks whole."""
    made = [point for point in document["points"] if point["command"]]
    rows = ((_name(point), tag("code", point["command"])) for point in made)
    all_commands = table(("network", "command"), rows, numeric_from=2)
    knee, closer = document["knee"]["command"], document["knee"]["closer_command"]
    return section(
        "Make one of them",
        tag("pre", knee) if knee else NOTHING,
        join(("To look closer at the knee:", tag("pre", closer))) if closer else NOTHING,
        details("The command of every network", all_commands),
        lead="A sweep keeps plans, not networks. The scores are cached, so this does not score "
        "again" + (", and makes the knee's network." if knee else "."),
    )


def _run(document: Row) -> Html:
    took = sum(point["seconds"] for point in document["points"])
    return section(
        "This run",
        tag("pre", document["command"]) if document["command"] else NOTHING,
        facts(
            document,
            {
                "Measured": f"in {seconds(took)}, from one scoring run",
                "Decided by": decided_by(document["method"]),
                "Channel counts": multiple_text(document["channel_multiple"]),
            },
        ),
        stage_times(document["stage_seconds"]),
        lead="The same command with the same files and seed gives the same plans, byte for byte, "
        "on the same machine with the same versions; elsewhere up to ties.",
    )


def _knee(document: Row) -> Row | None:
    return next((point for point in document["points"] if point["is_knee"]), None)


def _name(point: Row | None) -> str:
    return "original" if point is None or point["budget"] is None else str(point["budget"])
