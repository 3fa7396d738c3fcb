"""The end of a run on the terminal: budget, sizes, proof, accuracy, speed, and where things are.

Reads the document of ``report.json``, so that the terminal never says more than the report.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.summaries.tables import lines_of, shown, two_columns
from fairdeploy.records.accuracy import REPAIRS, STEPS
from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting.accuracy_rows import fidelity_rows, second_rows
from fairdeploy.reporting.chain import agreement_titles, verdict
from fairdeploy.reporting.quantities import (
    NO_CLAIM,
    budget_verdict,
    change_text,
    decided_by,
    error_text,
    needed_text,
    quality_name,
    verdict_text,
)

Document = Mapping[str, Any]
_DEFAULT_METHOD = ("wasserstein", "taylor", "tod")

_MAX_REMARKS = 2
_MAX_OBSTACLES = 3
_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def shrink_summary(document: Document, folder: Path) -> RenderableType:
    """Everything that a user wants to know first."""
    facts = two_columns(
        list(
            lines_of(
                lambda: _budget_lines(document["budget"]),
                lambda: latency_search_lines(document.get("latency_search")),
                lambda: method_lines(document.get("method")),
                lambda: restriction_lines(document["restrictions"]),
                lambda: _block_lines(document.get("blocks", ())),
                lambda: _check_lines(document),
                lambda: _chain_lines(document.get("chain")),
                lambda: not_judged_lines(document),
                lambda: _accuracy_lines(document),
                lambda: _fidelity_lines(document),
                lambda: training_lines(document),
                lambda: latency_lines(document["latency"]),
                lambda: why_not_faster_lines(document["latency"], document.get("why_not_faster")),
                lambda: _file_lines(document["artifacts"], folder),
            )
        )
    )
    return Group(Text(), shown(lambda: _size_table(document["model"])), Text(), facts)


def short(amount: float) -> str:
    """Three digits and a decimal prefix: ``1.23 M``."""
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{amount / size:.3g}{prefix}"
    return f"{amount:g}"


def method_lines(method: Document | None) -> Iterator[tuple[str, str]]:
    """What decided, where it was not the default."""
    if method and (method["signal"], method["protect"], method["allocation"]) != _DEFAULT_METHOD:
        yield "decided", f"by {escape(decided_by(method))}"


def restriction_lines(outcomes: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """One line for each option, and one for what it could not do."""
    for row in outcomes:
        yield "control", f"[bold]{escape(row['option'])}[/]: {_outcome(row)}"
        if row["exceptions"]:
            yield "", f"[yellow]not held by[/] {_remarks(row['exceptions'])}"
        if row["notes"]:
            yield "", f"[dim]{_remarks(row['notes'])}[/]"


def _block_lines(rows: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """Which residual blocks are gone as a whole."""
    gone = [escape(row["module"]) for row in rows if row["is_gone"]]
    if rows:
        which = f": {', '.join(gone)}" if gone else ""
        yield "blocks", f"{len(gone)} of {len(rows)} residual blocks gone{which}"


def _outcome(row: Document) -> str:
    option, count, held = row["option"], row["num_groups"], row["num_held"]
    if option.startswith("--round-to"):
        return f"{held} of {count} groups shrink, in multiples"
    if option.startswith(("--include", "--exclude")):
        return f"{count} groups stay whole" if count != 1 else "1 group stays whole"
    return f"{held} of {count} groups at this limit"


def _remarks(rows: Sequence[Document]) -> str:
    shown = [f"{escape(row['group'])} ({escape(row['text'])})" for row in rows[:_MAX_REMARKS]]
    more = f" and {len(rows) - _MAX_REMARKS} more" if len(rows) > _MAX_REMARKS else ""
    return ", ".join(shown) + more


def _size_table(model: Document) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("original", "shrunk", "left"):
        table.add_column(title, justify="right")
    for metric in (METRICS[name] for name in COUNTED):
        original, shrunk = model["original"][metric.key], model["shrunk"][metric.key]
        share = f"{shrunk / original:.1%}" if original else ""
        table.add_row(metric.title, short(original), short(shrunk), share)
    return table


def _budget_lines(rows: Sequence[Document]) -> Iterator[tuple[str, str]]:
    for row in rows:
        color = "green" if row["met"] else "red"
        verdict = f"[{color}]{budget_verdict(row)}[/]"
        yield "budget", f"{escape(row['asked'])}: got {_got(row)}, {verdict}"


def _got(row: Document) -> str:
    if row["metric"] == "latency":
        return (
            f"{row['got']:.3g} of {row['original']:.3g} ms ({row['share']:.1%}, 95 % interval "
            f"{row['share_low']:.1%} to {row['share_high']:.1%})"
        )
    share = f" ({row['got'] / row['original']:.2%})" if row["original"] else ""
    return f"{short(row['got'])}{share}"


def latency_search_lines(search: Document | None) -> Iterator[tuple[str, str]]:
    """How many plans were measured, how long one took, and why the search ended."""
    if search is None or not search["candidates"]:
        return
    timed = [candidate["timed"] for candidate in search["candidates"]]
    made, measured = (
        sum(row[key] for row in timed) / len(timed)
        for key in ("seconds_to_make", "seconds_to_measure")
    )
    doubt = "" if search["is_confirmed"] else "; [yellow]not confirmed[/]"
    yield (
        "search",
        f"{search['num_measured']} plans measured, each made in {made:.1f} s and timed in "
        f"{measured:.1f} s; ended: {escape(search['ended_because'])}{doubt}",
    )


def _check_lines(document: Document) -> Iterator[tuple[str, str]]:
    proof = document["proof"]
    yield (
        "proof",
        "the original with the removed units zeroed "
        f"{'equals' if proof['passed'] else 'DIFFERS FROM'} the shrunk network: "
        f"{_error(proof)}" + (", in float64" if proof.get("precision") == "float64" else ""),
    )
    if proof.get("num_coupled_norms"):
        yield (
            "not exact",
            f"{proof['num_coupled_norms']} layer norms take their statistics over fewer channels: "
            "before repair the outputs differ by "
            f"{error_text(proof['norm_coupled_difference'])} of the largest output from the "
            "original with the removed units zeroed; the proof covers everything else",
        )
    for row in document["parity"]:
        yield (
            "parity",
            f"{escape(row['artifact'])} at batch {row['batch']}"
            f"{', ' + row['image_size'] if row.get('image_size') else ''}: {_error(row)}"
            + "".join(
                f", {row['top1_agreement']:.1%} {title}"
                for title in agreement_titles(document, [row])
            ),
        )


def _chain_lines(chain: Document | None) -> Iterator[tuple[str, str]]:
    """From the zeroed original to the exported file, in one verdict."""
    if chain is not None:
        color = "green" if chain["passed"] else "bold red"
        yield "chain", f"[{color}]{escape(verdict(chain))}[/]"


def _error(row: Document) -> str:
    return f"relative error {error_text(row['max_relative_error'])} (limit {row['limit']:.0e})"


def _accuracy_lines(document: Document) -> Iterator[tuple[str, str]]:
    accuracy = document["accuracy"]
    steps = [
        f"{stage} {row['value']:.1%} [dim]({row['low']:.1%} to {row['high']:.1%})[/]"
        for stage in STEPS
        if (row := accuracy.get(stage)) is not None
    ]
    if steps:
        title = quality_name(document)
        yield title, f"{', '.join(steps)} on {accuracy['num_images']:,} test images"
    titles, rows = second_rows(document)
    if rows:
        yield titles[1], escape(", ".join(f"{step} {value}" for step, value, _ in rows))
        if rows[-1][2]:
            yield "", escape(f"{rows[-1][0]}: {rows[-1][2]} against the original")


def _fidelity_lines(document: Document) -> Iterator[tuple[str, str]]:
    """How far the main output is from the original's, where accuracy is not measured."""
    titles, rows = fidelity_rows(document)
    for place, (step, *cells) in enumerate(rows):
        told = ", ".join(f"{name} {cell}" for name, cell in zip(titles[1:], cells, strict=True))
        yield "" if place else "fidelity", f"{step}: {told}"


def not_judged_lines(document: Document) -> Iterator[tuple[str, str]]:
    """Why nothing is said about accuracy."""
    found = document.get("not_judged")
    if found:
        yield "accuracy", f"[bold red]not judged[/]: {escape(found['reason'])}"
        yield "", escape(found["remedy"])


def latency_lines(latency: Document | None) -> Iterator[tuple[str, str]]:
    """Milliseconds, and the speed-up with its interval; nothing where it was not measured."""
    if latency is None:
        return
    noisy = "; the machine was busy, so take it with caution" if latency.get("is_noisy") else ""
    claim = f"{latency['speedup']:.2f} times as fast"
    yield (
        "latency",
        f"{latency['original_ms']:.3g} ms, now {latency['shrunk_ms']:.3g} ms on "
        f"{escape(latency['target'])}: {NO_CLAIM if latency['is_too_busy'] else claim} "
        f"[dim]({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})[/]{noisy}",
    )
    idle = latency.get("idle_gap")
    if idle:
        yield (
            "",
            f"calls {idle['gap_ms']:g} ms apart: {idle['original']['median_ms']:.3g} ms, now "
            f"{idle['shrunk']['median_ms']:.3g} ms: {idle['speedup']:.2f} times as fast "
            f"[dim]({idle['speedup_low']:.2f} to {idle['speedup_high']:.2f})[/]",
        )


def why_not_faster_lines(
    latency: Document | None, why: Document | None
) -> Iterator[tuple[str, str]]:
    """Only where the speed-up is well below what the MACs promise: what holds most of the time."""
    if latency is not None and latency["speedup_high"] < 1 and not latency["is_too_busy"]:
        yield "SLOWER", "[bold red]the shrunk network is slower than the original[/]"
    if why is None or not why["is_short"]:
        return
    first, *more = why["obstacles"][:_MAX_OBSTACLES] or [{"text": "no operator stands out"}]
    promise = f"MACs promised {why['promised_speedup']:.2f} times as fast; what holds it back: "
    yield "why", promise + escape(first["text"])
    for row in more:
        yield "", escape(row["text"])


def _file_lines(artifacts: Sequence[Document], folder: Path) -> Iterator[tuple[str, str]]:
    names = ", ".join(f"{row['path']} ({short(row['size_bytes'])}B)" for row in artifacts)
    yield "files", escape(f"{folder}: {names}")
    yield "report", f"[bold]{escape(str(folder / 'report.html'))}[/]"


def targets_table(rows: Sequence[Document]) -> RenderableType:
    """Name, whether it is usable here, and what it is."""
    table = Table(box=None, pad_edge=False)
    for title in ("target", "usable here", "description"):
        table.add_column(title)
    for row in rows:
        usable = f"no, because {escape(row['problem'])}" if row["problem"] else "yes"
        table.add_row(f"[bold]{escape(row['name'])}[/]", usable, escape(row["description"]))
    return table


def demo_ending(folder: Path) -> RenderableType:
    """Where the report is, and what to type next."""
    shrunk = folder / "model-shrunk"
    return Group(
        Text(),
        two_columns(
            [
                ("open", escape(str(shrunk / "report.html"))),
                ("next", f"fairdeploy inspect {escape(shlex.quote(str(folder / 'model.pt')))}"),
                (
                    "",
                    f"cd {escape(shlex.quote(str(folder)))} && "
                    "fairdeploy shrink model.pt --budget macs=30% -o smaller",
                ),
                ("yours", "fairdeploy shrink YOUR_MODEL.pt --budget 40% --data YOUR_IMAGES"),
            ]
        ),
    )


# ---- lines of the terminal about what training did, changed answers, and the accuracy gate -------


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
    title, by_class = quality_name(document), document["changes"]["by_class"]
    lost, gained = ("lost", "gained") if by_class else ("images worse", "better")
    told = f"{title} {change_text(last)}; {last['num_lost']} {lost}, {last['num_gained']} {gained}"
    told += f", {last['changed_share']:.1%} changed"
    if by_class:
        worst = min(by_class, key=lambda row: row["after"] - row["before"])
        told += f"; worst class {escape(worst['class'])} {worst['before']:.1%}, "
        told += f"now {worst['after']:.1%}"
    yield "answers", told
    for step, row in document["changes"].get("since_last", {}).items():
        if step in REPAIRS and row["value"] < 0:
            yield "", f"[yellow]{step}: the {title} {change_text(row)} with this step[/]"


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
