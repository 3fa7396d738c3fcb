"""``MODEL_CARD.md``: what a folder holds, how it was made, how good and how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fairdeploy.records.accuracy import STEPS
from fairdeploy.records.image_preparation import fit_in_words, pixels_in_words
from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting.accuracy_rows import second_rows
from fairdeploy.reporting.chain import agreement_titles, verdict
from fairdeploy.reporting.quantities import (
    amount,
    as_fast,
    budget_verdict,
    count,
    error_text,
    factor,
    milliseconds,
    not_shown,
    percent,
    quality_name,
    share_of,
    size,
)

Document = Mapping[str, Any]


def model_card(document: Document) -> str:
    """The card as Markdown, from the document of ``report.json``."""
    parts = (_shown(part, document) for part in _PARTS)
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(part: Callable[[Document], Iterator[str]], document: Document) -> str:
    """A part, or that it failed: the rest of the card stands."""
    try:
        return "\n\n".join(part(document))
    except Exception as problem:  # no card may cost a run its result
        return not_shown(problem)


def _heading(document: Document) -> Iterator[str]:
    model = document["model"]
    share = share_of(model["shrunk"]["params"], model["original"]["params"])
    yield f"# {_plain(model['name'])}, shrunk to {percent(share, 2)} of its parameters"
    yield f"Made by fairdeploy {_version(document)} on {document['created_at']} with:"
    yield f"    {document['command']}"


def _budget(document: Document) -> Iterator[str]:
    yield "## Budget"
    yield _table(("", "original", "shrunk"), _size_rows(document["model"]))
    yield _bullets(_budget_lines(document))


def _accuracy(document: Document) -> Iterator[str]:
    yield "## Accuracy"
    yield _bullets(_accuracy_lines(document))


def _speed(document: Document) -> Iterator[str]:
    yield "## Speed"
    yield _bullets(_latency_lines(document["latency"]))


def _files(document: Document) -> Iterator[str]:
    yield "## Files"
    rows = document["chain"]["rows"]
    agreement = agreement_titles(document, rows)
    yield _table(
        ("file", "precision", "size", "error", *agreement, "accuracy", ""),
        (_chain_cells(row, has_agreement=bool(agreement)) for row in rows),
    )
    yield f"The chain from the original to every file: {verdict(document['chain'])}."


def _use(document: Document) -> Iterator[str]:
    yield "## Use"
    yield _bullets(_use_lines(document))


def _provenance(document: Document) -> Iterator[str]:
    yield "## Provenance"
    yield _bullets(_provenance_lines(document))
    if document["warnings"]:
        yield "## Please note"
        yield _bullets(document["warnings"])


_PARTS = (_heading, _budget, _accuracy, _speed, _files, _use, _provenance)


def _size_rows(model: Document) -> Iterator[tuple[str, ...]]:
    for metric in COUNTED:
        row = METRICS[metric]
        both = (amount(metric, model[which][row.key]) for which in ("original", "shrunk"))
        yield row.title, *both


def _budget_lines(document: Document) -> Iterator[str]:
    for row in document["budget"]:
        got, original = (amount(row["metric"], row[key]) for key in ("got", "original"))
        yield f"`{row['asked']}`: {got} of {original}, {budget_verdict(row)}"


def _accuracy_lines(document: Document) -> Iterator[str]:
    accuracy, quality = document["accuracy"], quality_name(document)
    steps = [name for name in STEPS if accuracy.get(name)]
    if document.get("not_judged"):
        yield f"Not judged: {document['not_judged']['text']}."
    elif not steps:
        yield "Not measured: no labelled test images were given."
    for name in steps:
        row = accuracy[name]
        interval = f"95 % interval {percent(row['low'])} to {percent(row['high'])}"
        of = "of" if quality == "accuracy" else f"{quality} on"
        value = f"{percent(row['value'])} {of} {accuracy['num_images']:,} images"
        yield f"{STEPS[name]}: {value} ({interval})"
    titles, rows = second_rows(document)
    for step, shown, _ in rows:
        yield f"{titles[1]}, {step}: {shown}"


def _latency_lines(latency: Document | None) -> Iterator[str]:
    if latency is None:
        yield "Not measured."
        return
    yield (
        f"{as_fast(latency, ' as the original')} (95 % interval "
        f"{factor(latency['speedup_low'])} to {factor(latency['speedup_high'])}): "
        f"{milliseconds(latency['original_ms'])}, now {milliseconds(latency['shrunk_ms'])} a call, "
        f"batch {latency['batch']}, target {latency['target']}"
    )
    device = latency["device"]
    if device:
        versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
        where = f"{device['cpu']}, {device['cores']} cores, {device['system']}"
        yield f"measured on {where}; {versions}"
    if latency["is_noisy"]:
        yield "the machine was busy: the ratio holds better than the milliseconds"


def _chain_cells(row: Document, *, has_agreement: bool) -> tuple[str, ...]:
    passed = {True: "holds", False: "**failed**", None: "not run"}[row["passed"]]
    return (
        f"`{row['file']}`" if row["format"] else row["file"],
        row["precision"] or "",
        size(row["size_bytes"]),
        error_text(row["error"]),
        *((percent(row["top1_agreement"]),) if has_agreement else ()),
        percent(row["accuracy"]),
        f"{passed}{': ' + row['note'] if row['note'] else ''}",
    )


def _use_lines(document: Document) -> Iterator[str]:
    inputs = ", ".join(f"`{text}`" for text in document["model"]["inputs"])
    yield f"takes {inputs} (sizes without the batch)"
    told = document.get("preprocessing")
    if told:
        yield f"images: {fit_in_words(told)}; pixels: {pixels_in_words(told)}"
    else:
        yield "inputs are used as they are"
    is_judged = document["accuracy"].get("original") is not None
    is_classifier = is_judged and quality_name(document) == "accuracy"
    does = "classifies an image" if is_classifier else "runs the network on an image"
    if told:
        yield f"`python run.py IMAGE` {does}; it needs numpy, onnxruntime and Pillow"
    yield "`fairdeploy verify .` checks every file of this folder"


def _provenance_lines(document: Document) -> Iterator[str]:
    model, data = document["model"], document["data"]
    yield f"original: `{model['source']}`, SHA-256 of its weights `{model['sha256']}`"
    if data:
        yield (
            f"data: {'made-up noise' if data['is_synthetic'] else data['source']}, "
            f"{count(data['num_calibration'])} images to calibrate (labels: "
            f"{data['label_source']}), {count(data['num_test'])} to test, SHA-256 "
            f"`{data['sha256']}`"
        )
    packages = document["environment"]["packages"]
    yield f"seed {document['seed']}; " + ", ".join(f"{k} {v}" for k, v in packages.items())
    yield "what was removed is in `plan.json`, everything that was found out in `report.json`"


def _bullets(lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(headers: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    return text.replace("\n", " ")


def _version(document: Document) -> str:
    return str(document["environment"]["packages"].get("fairdeploy", ""))
