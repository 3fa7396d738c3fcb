"""What became of single answers: against the original after each step, by class, and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.reporting.accuracy_rows import STEPS
from fairdeploy.reporting.page.markup import NOTHING, Html, details, join, pill, section, table, tag
from fairdeploy.reporting.quantities import (
    MISSING,
    change_text,
    needed_text,
    percent,
    plural,
    points,
    seconds,
    verdict_text,
)

Row = Mapping[str, Any]
_LABELS = {
    "given": "given labels",
    "predicted": "labelled by the original's own predictions",
    "none": "no labels",
}
_TEACHERS = {
    "none": "",
    "logits": ", imitating the original's answers",
    "features": ", imitating the original's answers and inner values",
}


def changed_answers(document: Row) -> Html:
    """Everything about accuracy that a single number does not tell; nothing where there is none."""
    parts = (
        _gate(document["max_drop"]),
        _by_step(document["changes"]),
        _by_class(document["changes"]),
        _recovery(document["recovery"]),
        _distillation(document["distillation"]),
        _tuning(document["tuning"]),
        _purposes(document["data"]),
    )
    if not any(parts[:-1]):
        return NOTHING
    return section(
        "Changed answers",
        *parts,
        lead="Against the original on the same images. Lost: only the original is right; gained: "
        "only the shrunk network is; changed: another class, right or wrong. The interval is that "
        "of paired samples (Agresti and Min), 95 %.",
    )


def _gate(gate: Row | None) -> Html:
    if gate is None:
        return NOTHING
    verdict = pill("kept", is_good=True) if gate["passed"] else pill("not kept", is_good=False)
    difference = gate["difference"]
    text = (
        f" --max-drop {percent(gate['max_drop'], 2)} on {difference['num_images']:,} "
        f"{gate['images']} images: accuracy {change_text(difference)}. How many images it takes: "
        f"{needed_text(gate)}."
    )
    return join((tag("p", verdict, text), _search(gate["search"], gate["max_drop"])))


def _search(search: Row | None, max_drop: float) -> Html:
    if search is None:
        return NOTHING
    rows = (
        (
            join((trial["budget"], " ", pill("chosen", is_good=True)))
            if index == search["chosen"]
            else trial["budget"],
            percent(trial["share"], 2),
            points(trial["difference"]["value"]),
            f"{points(trial['difference']['low'])} to {points(trial['difference']['high'])}",
            _word(trial, max_drop),
        )
        for index, trial in enumerate(search["trials"])
    )
    headers = ("tried", "got", "accuracy", "interval", "drop")
    return details(f"The {plural(len(search['trials']), 'network')} that were tried",
                   table(headers, rows))  # fmt: skip


def _word(trial: Row, max_drop: float) -> str:
    if trial["is_within"]:
        return "within"
    return "too much" if trial["difference"]["high"] < -max_drop else "undecided"


def _by_step(changes: Row | None) -> Html:
    if changes is None:
        return NOTHING
    rows = (
        (
            STEPS.get(step, step),
            points(row["value"]),
            f"{points(row['low'])} to {points(row['high'])}",
            f"{row['num_lost']:,}",
            f"{row['num_gained']:,}",
            percent(row["changed_share"]),
            _without_interval(change_text(changes["since_last"][step])),
        )
        for step, row in changes["by_step"].items()
    )
    headers = ("step", "accuracy", "interval", "lost", "gained", "changed", "with this step")
    return table(headers, rows)


def _without_interval(text: str) -> str:
    """The table has one interval a row already, and no room for another."""
    return text.partition(" (")[0] + text.rpartition(")")[2]


def _by_class(changes: Row | None) -> Html:
    """Worst first."""
    if changes is None:
        return NOTHING
    rows = sorted(changes["by_class"], key=lambda row: row["after"] - row["before"])
    cells = (
        (
            row["class"],
            f"{row['num_images']:,}",
            percent(row["before"]),
            percent(row["after"]),
            points(row["after"] - row["before"]),
            f"{row['num_lost']:,}",
            f"{row['num_gained']:,}",
        )
        for row in rows
    )
    headers = ("class", "images", "original", "shrunk", "change", "lost", "gained")
    return details("By class, the largest loss first", table(headers, cells))


def _recovery(row: Row | None) -> Html:
    if row is None or row["verdict"] is None:
        return NOTHING
    fitted = ", which it is fitted to" if row["verdict"]["are_fitted"] else ""
    return tag("p", f"Repaired: {verdict_text(row['verdict'])}{fitted}.")


def _distillation(row: Row | None) -> Html:
    if row is None:
        return NOTHING
    return tag(
        "p",
        f"Distilled without labels: {plural(row['num_blocks'], 'block')}, "
        f"{row['num_steps']:,} steps on {row['num_images']:,} images in "
        f"{seconds(row['seconds'])}; {verdict_text(row['verdict'])}.",
    )


def _tuning(row: Row | None) -> Html:
    if row is None:
        return NOTHING
    labels = "given labels" if row["uses_labels"] else "no labels"
    resumed = f", resumed after epoch {row['resumed_from']}" if row["resumed_from"] else ""
    how = f"{labels}{_TEACHERS[row['teacher']]}"
    text = (
        f"Trained for {plural(len(row['epochs']) - 1, 'epoch')} of {row['epochs_asked']}{resumed} "
        f"on {row['num_images']:,} images ({how}) with {row['optimizer']} at a rate of "
        f"{row['learning_rate']:g} on {row['device']} in "
        f"{seconds(row['seconds'])}; the weights are those of epoch {row['best_epoch']}, best of "
        f"all on {row['num_selection']:,} selection images: {verdict_text(row['verdict'])}. Ended "
        f"because {row['ended_because']}."
    )
    cells = (
        (
            str(epoch["epoch"]),
            MISSING if epoch["loss"] is None else f"{epoch['loss']:.4f}",
            percent(epoch["score"], 2),
        )
        for epoch in row["epochs"]
    )
    headers = ("epoch", "loss", f"{row['measure']} on selection images")
    return join((tag("p", text), details("Every epoch", table(headers, cells))))


def _purposes(data: Row | None) -> Html:
    """Which images served for what, and who labelled them."""
    rows: Sequence[Row] = data["purposes"] if data else ()
    if not rows:
        return NOTHING
    cells = (
        (row["purpose"], f"{row['num_images']:,}", _LABELS.get(row["label_source"], ""))
        for row in rows
    )
    return details("Which images served for what", table(("purpose", "images", "labels"), cells))
