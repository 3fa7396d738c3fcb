"""Lines of the terminal about what training did, changed answers, and the accuracy gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape

from fairdeploy.reporting.quantities import change_text, needed_text, verdict_text

Document = Mapping[str, Any]

_REPAIRS = ("recovered", "distilled", "tuned")
WORTH_MORE = 0.01
"""Share of the answers that got wrong, of which more can be got back."""


def training_lines(document: Document) -> Iterator[tuple[str, str]]:
    """One line for each of: distillation, training, changed answers, ``--max-drop``."""
    yield from _recovery_lines(document.get("recovery"))
    yield from _distillation_lines(document.get("distillation"))
    yield from _tuning_lines(document.get("tuning"))
    yield from _change_lines(document)
    yield from _advice_lines(document)
    yield from _gate_lines(document.get("max_drop"))


def _recovery_lines(row: Document | None) -> Iterator[tuple[str, str]]:
    """Only where the repair was undone."""
    if row is not None and row["verdict"] and row["verdict"]["outcome"] == "kept":
        yield "repaired", f"[yellow]no[/]: {verdict_text(row['verdict'])}"


def _distillation_lines(row: Document | None) -> Iterator[tuple[str, str]]:
    if row is not None:
        yield (
            "distilled",
            f"without labels, {row['num_steps']:,} steps on {row['num_images']:,} images: "
            f"{verdict_text(row['verdict'])}",
        )


def _tuning_lines(row: Document | None) -> Iterator[tuple[str, str]]:
    if row is not None:
        yield (
            "trained",
            f"{len(row['epochs']) - 1} epochs on {row['num_images']:,} images, best after epoch "
            f"{row['best_epoch']}: {verdict_text(row['verdict'])}",
        )


def _last_change(document: Document) -> Document | None:
    """What the network that is delivered answers otherwise; None if that was not measured."""
    changes = document.get("changes")
    steps: list[Document] = list(changes["by_step"].values()) if changes else []
    return steps[-1] if steps else None


def _change_lines(document: Document) -> Iterator[tuple[str, str]]:
    last = _last_change(document)
    if last is None:
        return
    worst = min(document["changes"]["by_class"], key=lambda row: row["after"] - row["before"])
    yield (
        "answers",
        f"accuracy {change_text(last)}; {last['num_lost']} lost, {last['num_gained']} gained, "
        f"{last['changed_share']:.1%} changed; worst class {escape(worst['class'])} "
        f"{worst['before']:.1%}, now {worst['after']:.1%}",
    )
    for step, row in document["changes"].get("since_last", {}).items():
        if step in _REPAIRS and row["value"] < 0:
            yield "", f"[yellow]{step}: the accuracy {change_text(row)} with this step[/]"


def _advice_lines(document: Document) -> Iterator[tuple[str, str]]:
    """What gets more accuracy back, where nothing was trained and some was surely lost."""
    last = _last_change(document)
    was_trained = document.get("distillation") or document.get("tuning")
    if last is not None and last["value"] <= -WORTH_MORE and last["high"] < 0 and not was_trained:
        yield (
            "",
            "to get more of it back: [bold]--recover distil[/] imitates the original on all images "
            "that are left, without labels; minutes on a GPU, up to half an hour on two cores",
        )


def _gate_lines(gate: Document | None) -> Iterator[tuple[str, str]]:
    if gate is None:
        return
    verdict = "[green]kept[/]" if gate["passed"] else "[red]not kept[/]"
    difference = gate["difference"]
    yield (
        "max drop",
        f"{100 * gate['max_drop']:g} %: {100 * difference['value']:+.2f} points "
        f"({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f}) on "
        f"{difference['num_images']:,} {gate['images']} images, {verdict}",
    )
    yield "", f"[dim]{escape(needed_text(gate))}[/]"
    search = gate["search"]
    if search:
        chosen = search["trials"][search["chosen"]]
        yield (
            "",
            f"smallest of {len(search['trials'])} networks tried: {chosen['share']:.1%} of the "
            f"{search['metric']}",
        )
