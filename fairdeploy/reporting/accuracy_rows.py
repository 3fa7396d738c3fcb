"""The parts of ``report.json`` about accuracy: by step, by class, against the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fairdeploy.records import (
    AccuracyByStage,
    AccuracyEstimate,
    AnswerChanges,
    ClassChange,
    DataSplits,
    DistillationSummary,
    DropGate,
    ImageSet,
    Mending,
    PairedDifference,
    RecoverySummary,
    TuningSummary,
    Verdict,
)
from fairdeploy.records.accuracy import STEPS
from fairdeploy.reporting.json_tree import row_of
from fairdeploy.reporting.quantities import percent, points


def accuracy_row(accuracy: AccuracyByStage) -> dict[str, Any]:
    """The estimate after each step; None where it was not measured."""
    found: dict[str, AccuracyEstimate | None] = {step: getattr(accuracy, step) for step in STEPS}
    sizes = [estimate.num_images for estimate in found.values() if estimate]
    rows: dict[str, Any] = {step: estimate_row(estimate) for step, estimate in found.items()}
    return rows | {"num_images": max(sizes, default=0)}


def estimate_row(estimate: AccuracyEstimate | None) -> dict[str, float] | None:
    """An accuracy and its interval; None where it was not measured."""
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def changes_row(
    changes: AnswerChanges | None, class_names: Sequence[str] | None
) -> dict[str, Any] | None:
    """How the answers differ from the original's after each step, and by class at the end."""
    if changes is None:
        return None
    return {
        "by_step": {step: difference_row(paired) for step, paired in changes.by_step.items()},
        "since_last": {step: difference_row(row) for step, row in changes.since_last.items()},
        "by_class": [_class_row(change, class_names) for change in changes.by_class],
    }


def difference_row(paired: PairedDifference) -> dict[str, Any]:
    """A difference of accuracies, and the share of images whose answer is another."""
    return asdict(paired) | {"changed_share": paired.num_changed / paired.num_images}


def _class_row(change: ClassChange, class_names: Sequence[str] | None) -> dict[str, Any]:
    has_name = class_names is not None and change.label < len(class_names)
    return {
        "class": class_names[change.label] if has_name and class_names else str(change.label),
        "before": change.num_right_before / change.num_images,
        "after": change.num_right_after / change.num_images,
    } | asdict(change)


def gate_row(gate: DropGate | None) -> dict[str, Any] | None:
    """Whether the result keeps to ``--max-drop``, why not, and how it was searched for."""
    if gate is None:
        return None
    return {
        "max_drop": gate.max_drop,
        "images": gate.images,
        "difference": difference_row(gate.difference),
        "passed": gate.passed,
        "problem": None if gate.passed else gate_problem(gate),
        "search": row_of(gate.search),
        "images_needed": gate.images_needed,
        "undecided": row_of(gate.undecided),
    }


def gate_problem(gate: DropGate) -> str:
    """One line: what fell by how much, what was allowed, and what to do."""
    difference = gate.difference
    fell, most = -100 * difference.value, -100 * difference.low
    surely = "fell" if -difference.value > gate.max_drop else "may have fallen"
    return (
        f"accuracy {surely} by more than --max-drop {100 * gate.max_drop:g}% allows: by {fell:.2f} "
        f"points on {difference.num_images:,} {gate.images} images, at most {most:.2f} with 95 % "
        "confidence; raise the budget or --max-drop, add --recover distil or --finetune"
        + ("" if surely == "fell" else ", or test on more images")
    )


def mending_rows(mending: Mending) -> dict[str, Any]:
    """What repair, distillation and training did."""
    return {
        "recovery": _judged_row(mending.recovery),
        "distillation": _judged_row(mending.distillation),
        "tuning": _judged_row(mending.tuning),
    }


def _judged_row(
    summary: RecoverySummary | DistillationSummary | TuningSummary | None,
) -> dict[str, Any] | None:
    if summary is None:
        return None
    return row_of(summary) | {"verdict": row_of(summary.verdict, "outcome")}


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Whether a step's weights stay, and by which figure."""
    return row_of(verdict, "outcome")


def purposes(data: DataSplits) -> list[dict[str, Any]]:
    """For each set of images: how many, and who labelled them."""
    rows = [_purpose(what, images) for what, images in data.image_sets().items()]
    if data.training is not None:
        source = "given" if data.training.has_labels else "none"
        count = data.training.num_images
        rows.append({"purpose": "training", "num_images": count, "label_source": source})
    return rows


def _purpose(what: str, images: ImageSet) -> dict[str, Any]:
    return {"purpose": what, "num_images": len(images), "label_source": images.label_source}


def fidelity_rows(document: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and rows of a table: how far the main output is from the original's, by step."""
    found = document.get("fidelity")
    if not found:
        return (), []
    rows, titles = [], ("step", "error", "cosine", document["task"]["agreement"])
    for step, row in found["by_step"].items():
        main = {one["output"]: one for one in row["outputs"]}.get(found["main_output"], {})
        cells = (
            _interval(main.get("error"), percent),
            _interval(main.get("cosine"), lambda value: f"{value:.3f}"),
            _interval(row["agreement"], percent),
        )
        rows.append((STEPS.get(step, step), *cells))
    used = [place for place in range(len(titles)) if any(row[place] for row in rows)]
    return tuple(titles[i] for i in used), [tuple(row[i] for i in used) for row in rows]


def second_rows(document: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and rows of a table: the task's other figure by step, and its change."""
    found = document.get("second")
    if not found:
        return (), []
    is_share = found["unit"] == "%"

    def shown(value: float) -> str:
        return percent(value) if is_share else f"{value:.2f} {found['unit']}".rstrip()

    def moved(value: float) -> str:
        return points(value) if is_share else f"{value:+.2f} {found['unit']}".rstrip()

    changes = found["changes"]
    rows: list[tuple[str, ...]] = [
        (STEPS.get(step, step), _interval(row, shown), _interval(changes.get(step), moved))
        for step, row in found["by_step"].items()
    ]
    return ("step", found["name"], "against the original"), rows


def _interval(row: Mapping[str, Any] | None, shown: Callable[[float], str]) -> str:
    if not row:
        return ""
    return f"{shown(row['value'])} ({shown(row['low'])} to {shown(row['high'])})"
