"""How to get the same result again: command, seed, data, machine, versions, and the time taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.reporting.page.charts import share_bar
from fairdeploy.reporting.page.markup import (
    NOTHING,
    Html,
    details,
    dotted,
    join,
    pill,
    section,
    table,
    tag,
)
from fairdeploy.reporting.quantities import MISSING, TIMES, error_text, percent, seconds, share_of

Row = Mapping[str, Any]
_LABELS = {
    "given": "labels given",
    "predicted": "no labels: the model's own predictions served as classes",
    "none": "no labels",
}


def run_facts(document: Row) -> Html:
    """Command and facts, then stage times, versions and recovered layers to open."""
    return section(
        "This run",
        tag("pre", document["command"]) if document["command"] else NOTHING,
        facts(document, _more(document)),
        _restrictions(document["restrictions"]),
        stage_times(document["stage_seconds"]),
        _layers(document["recovery"]),
        lead="The same command with the same files and seed gives the same plan, byte for byte, on "
        "the same machine with the same versions; elsewhere up to ties.",
    )


def facts(document: Row, more: Mapping[str, str]) -> Html:
    """Model, data, machine and versions, with ``more`` facts on this run in between."""
    environment, target, model = document["environment"], document["target"], document["model"]
    pairs = {
        "Model": f"{model['name']} from {model['source']}, {_inputs(model)}",
        **({"Weights": model["weights"]} if model.get("weights") else {}),
        "Weights SHA-256": tag("span", model["sha256"], class_="hash mono"),
        **more,
        "Data": _data(document["data"]),
        "Seed": str(document["seed"]),
        "Target": f"{target['name']}: {target['description']}",
        "Processor": f"{environment['cpu']}, {environment['cores']} cores",
        "System": f"{environment['platform']}, Python {environment['python']}",
        "Versions": ", ".join(f"{name} {v}" for name, v in environment["packages"].items()),
        "Written": f"{document['created_at'][:16].replace('T', ' ')} UTC",
    }
    items = (item for key, value in pairs.items() for item in (tag("dt", key), tag("dd", value)))
    return tag("dl", *items, class_="facts")


def _more(document: Row) -> dict[str, str]:
    return {
        "Own class": _own_class(document["model"]["own_class"]),
        "Decided by": decided_by(document["method"]),
    }


def decided_by(method: Row) -> str:
    """Which signals and which rule decided."""
    protects = "protects too" if method["protect"] == "none" else f"{method['protect']} protects"
    return f"{method['signal']} removes, {protects}, {method['allocation']} shares out"


def _own_class(own: Row) -> str:
    if own["rebuilt"]:
        return "rebuilt"
    return f"not rebuilt ({own['problem']}); the .pt2 file has the network"


def _restrictions(outcomes: Sequence[Row]) -> Html:
    """What came of ``--exclude``, ``--max-prune`` and the like."""
    if not outcomes:
        return NOTHING
    rows = (
        (tag("code", row["option"]), _outcome(row), str(row["num_groups"]), str(row["num_held"]))
        for row in outcomes
    )
    headers = ("restriction", "in this plan", "groups it applies to", "where it decided")
    return join((tag("h3", "Restrictions"), table(headers, rows, numeric_from=2)))


def _outcome(row: Row) -> Html:
    """Kept everywhere, or who could not and why; then what else there is to know."""
    exceptions = [_remark(remark) for remark in row["exceptions"]]
    verdict = (
        pill("kept", is_good=True) if not exceptions else pill("not everywhere", is_good=False)
    )
    notes = [_remark(remark) for remark in row["notes"]]
    return join((verdict, *exceptions, *notes))


def _remark(remark: Row) -> Html:
    return tag("span", dotted(remark["group"]), f": {remark['text']}", class_="under")


def _inputs(model: Row) -> str:
    inputs, batch = model.get("inputs", ()), model.get("fixed_batch")
    text = f"input {_shape(model['input_shape'])}"
    if len(inputs) > 1:
        text = f"inputs {', '.join(inputs)}"
    return f"{text}, {batch} at a time" if batch else text


def _shape(lengths: Sequence[int]) -> str:
    return f" {TIMES} ".join(map(str, lengths))


def _data(data: Row | None) -> str:
    if data is None:
        return "none"
    if data["is_synthetic"]:
        return f"{data['num_calibration']:,} synthetic images"
    return (
        f"{data['source']}: {data['num_calibration']:,} calibration and {data['num_test']:,} test "
        f"images, {_LABELS.get(data['label_source'], data['label_source'])}"
    )


def stage_times(stage_seconds: Mapping[str, float]) -> Html:
    """One bar for each stage, to open."""
    if not stage_seconds:
        return NOTHING
    total = sum(stage_seconds.values())
    rows = (
        tag(
            "div",
            tag("span", name, class_="label"),
            share_bar(share_of(duration, total) or 0.0, f"{name}: {seconds(duration)}"),
            tag("span", seconds(duration), class_="figure"),
            class_="row",
        )
        for name, duration in stage_seconds.items()
    )
    return details(f"Where the {seconds(total)} went", tag("div", *rows, class_="rows"))


def _layers(recovery: Row | None) -> Html:
    if not recovery or not recovery["layers"]:
        return NOTHING
    rows = (
        (
            dotted(layer["layer"]),
            layer["outcome"],
            _share(layer["error_before"]),
            _share(layer["error_after"]),
            MISSING if layer["ridge"] is None else error_text(layer["ridge"]),
        )
        for layer in recovery["layers"]
    )
    note = tag(
        "p",
        "Errors are shares of the variance of the original layer's output, on held-out images.",
        class_="lead",
    )
    headers = ("layer", "outcome", "error before", "after", "ridge")
    return details("Recovery of each layer", note, table(headers, rows, numeric_from=2))


def _share(value: float | None) -> str:
    return percent(value, 2)
