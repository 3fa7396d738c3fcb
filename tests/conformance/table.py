"""The results as Markdown: ours and the peers' side by side, and why whatever failed did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.conformance.decisions import DECISIONS
from tests.conformance.rows import PeerRow, Row

Peers = Mapping[tuple[str, str], PeerRow]
PEER_NAMES = ("torch-pruning", "network-pruner")
_HALF = 0.5
_FAST_NODES = 1000

_INTRODUCTION = """\
# Every architecture, halved

One model for each of timm's model files, the smallest, and torchvision's classifiers, segmenters,
detectors (backbone with feature pyramid), video and flow networks. Random weights with measured
norm statistics; random scores, grouped as `shrink` groups them; budget
`params=50%`, or the least that can be left where that is more. A model passes if the shrunk network
equals the original with the removed units zeroed to 1e-5 of the largest output (in float64 where
float32 rounding alone is more, and the row says so), no removed block
fits back into the budget, and its ONNX file equals torch to 1e-4 at batch 1 and 3, or at the one
batch size that the model takes. *Surgery* is CPU seconds of unit graph and removal together,
without the capture; *all* is the wall clock of the whole process with imports, proof and export, on
two cores that other work shared; *MiB* is its peak resident memory. *Pieces* are modules of the
user's class with sizes built into their code, which come back as parts of the proved graph.

The peers got the same models: half of the channels of every layer, output layers left alone, in 120
CPU seconds each. *works* means that the pruned network computes and its outputs have their old
shapes; they check no more than that, and nor does this column.

Made by
`python -m tests.conformance --peers --peers-python PYTHON --table tests/conformance/RESULTS.md`.
"""


def describe_row(row: Row) -> str:
    """One line for the terminal."""
    verdict = f"FAIL at {row.failed_stage}: {row.failure}" if row.failure else row.stage
    own = row.own_class or f"no ({row.own_class_reason})"
    return (
        f"{row.model}: {verdict} | kept {_percent(row.kept)} | own class {own} | "
        f"nodes {row.num_nodes} | surgery {_seconds(row.surgery_s)} s | {row.seconds:.0f} s | "
        f"{row.peak_mib} MiB"
    )


def write_table(rows: Sequence[Row], peers: Peers, path: Path) -> None:
    """Write the whole page."""
    sections = [
        _INTRODUCTION,
        _versions(rows, peers),
        _summary(rows, peers),
        _main_table(rows, peers),
        _failures(rows),
        _coupled_norms(rows),
        _small_cuts(rows),
        _missing_classes(rows),
        *(_peer_causes(rows, peers, peer) for peer in PEER_NAMES),
    ]
    path.write_text("\n".join(section for section in sections if section), encoding="utf-8")


def _versions(rows: Sequence[Row], peers: Peers) -> str:
    ours = sorted({row.fingerprint.partition(" ")[2] for row in rows})
    theirs = sorted({row.fingerprint.split(", ")[1] for row in peers.values() if row.fingerprint})
    return f"Versions: {'; '.join(ours)}; peers: {', '.join(theirs) or 'not run'}.\n{_states(rows)}"


def _states(rows: Sequence[Row]) -> str:
    """How many rows each state of the code made: models run again when something touches them."""
    counts = Counter(row.fingerprint.partition(" ")[0][:8] for row in rows if row.fingerprint)
    if len(counts) < 2:
        return ""
    found = ", ".join(f"{count} by {state}" for state, count in counts.most_common())
    return f"\nRows by the state of the code that made them (a hash of its sources): {found}.\n"


def _summary(rows: Sequence[Row], peers: Peers) -> str:
    captured = [row for row in rows if row.num_nodes is not None]
    shrunk = [row for row in rows if row.passed]
    halved = [row for row in shrunk if row.kept is not None and row.kept <= _HALF]
    own = [row for row in captured if row.own_class]
    whole = [row for row in own if not row.num_graph_parts]
    lines = [
        ("models", len(rows)),
        ("captured by `torch.export`", f"{len(captured)} of {len(rows)}"),
        ("shrunk, proved and exported", f"{len(shrunk)} of {len(rows)}"),
        ("… of these, to half of the parameters", f"{len(halved)} of {len(shrunk)}"),
        (
            "… of these, with layer norms that lose channels",
            sum(row.num_coupled_norms > 0 for row in shrunk),
        ),
        ("own class back", f"{len(own)} of {len(captured)} captured"),
        ("… of these, without pieces of the graph", f"{len(whole)} of {len(own)}"),
        *((f"{peer} works", _peer_count(rows, peers, peer)) for peer in PEER_NAMES),
        ("neither peer works", _neither_count(rows, peers)),
    ]
    times = [
        row.surgery_s
        for row in captured
        if row.surgery_s is not None and (row.num_nodes or 0) < _FAST_NODES
    ]
    if times:
        lines.append(
            (
                f"surgery of the {len(times)} models under {_FAST_NODES:,} nodes",
                f"median {median(times):.1f} s, longest {max(times):.1f} s",
            )
        )
    return _table(("what", "figure"), "-:", [(name, str(value)) for name, value in lines])


def _main_table(rows: Sequence[Row], peers: Peers) -> str:
    columns: dict[str, Callable[[Row], str]] = {
        "model": lambda row: row.model,
        "input": lambda row: ", ".join("×".join(map(str, shape)) for shape in row.input_shapes),
        "batch": lambda row: {None: "", True: "any", False: "fixed"}[row.has_dynamic_batch],
        "parameters": lambda row: f"{row.num_params / 1e6:.2f} M" if row.num_params else "",
        "nodes": lambda row: _count(row.num_nodes),
        "groups": lambda row: _count(row.num_groups),
        "units": lambda row: _count(row.num_units),
        "kept": lambda row: _percent(row.kept),
        "zeroed = shrunk": _proof,
        "ONNX": lambda row: _error(max(row.onnx.values())) if row.onnx else "",
        "own class": _own_class,
        "surgery s": lambda row: _seconds(row.surgery_s),
        "all s": lambda row: f"{row.seconds:.0f}",
        "MiB": lambda row: _count(row.peak_mib),
        "fairdeploy": _verdict,
        "Torch-Pruning": lambda row: _peer_verdict(peers, "torch-pruning", row.model),
        "network-pruner": lambda row: _peer_verdict(peers, "network-pruner", row.model),
    }
    body = [tuple(cell(row) for cell in columns.values()) for row in rows]
    return _table(tuple(columns), "---::::::--:::---", body)


def _proof(row: Row) -> str:
    return _error(row.proof) + (", float64" if row.proof_precision == "float64" else "")


def _verdict(row: Row) -> str:
    if not row.passed:
        return f"**fails** ({row.failed_stage})"
    return "pass, norm-coupled" if row.num_coupled_norms else "pass"


def _own_class(row: Row) -> str:
    if not row.own_class:
        return "no" if row.own_class_reason else ""
    return (
        f"{row.own_class}, {row.num_graph_parts} pieces" if row.num_graph_parts else row.own_class
    )


def _failures(rows: Sequence[Row]) -> str:
    body = [
        (row.model, row.failed_stage or row.stage, row.failure, DECISIONS.get(row.model, "open"))
        for row in rows
        if not row.passed
    ]
    head = ("model", "stage", "cause", "decision")
    return _section("What fails, and what follows", head, body)


def _coupled_norms(rows: Sequence[Row]) -> str:
    body = [
        (
            row.model,
            _count(row.num_coupled_norms),
            _error(row.norm_coupled_difference),
            DECISIONS.get(row.model, ""),
        )
        for row in rows
        if row.num_coupled_norms
    ]
    head = ("model", "layer norms", "what they change", "decision")
    return _section("Where layer norms lose channels", head, body)


def _small_cuts(rows: Sequence[Row]) -> str:
    body = [
        (row.model, _percent(row.reachable), "; ".join(row.frozen))
        for row in rows
        if row.reachable is not None and row.reachable > _HALF
    ]
    head = ("model", "least that can be left", "the largest that have to stay, and why")
    return _section("Where half of the parameters cannot go", head, body)


def _missing_classes(rows: Sequence[Row]) -> str:
    body = [(row.model, row.own_class_reason) for row in rows if row.own_class_reason]
    return _section("Where the own class does not come back", ("model", "why"), body)


def _peer_causes(rows: Sequence[Row], peers: Peers, peer: str) -> str:
    body = [
        (row.model, found.failed_stage, found.failure)
        for row in rows
        if (found := peers.get((peer, row.model))) and not found.works
    ]
    return _section(f"Where {peer} fails", ("model", "stage", "cause"), body)


def _section(title: str, head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    return f"## {title}\n\n{_table(head, '-' * len(head), body)}" if body else ""


def _table(head: tuple[str, ...], align: str, body: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; ``align`` has ``:`` for each column of numbers."""
    rules = ["--:" if mark == ":" else "---" for mark in align.ljust(len(head), "-")]
    lines = [head, tuple(rules), *body]
    return "".join(f"| {' | '.join(_cell(text) for text in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _peer_verdict(peers: Peers, peer: str, model: str) -> str:
    row = peers.get((peer, model))
    if row is None:
        return ""
    return "works" if row.works else "no"


def _peer_count(rows: Sequence[Row], peers: Peers, peer: str) -> str:
    found = [row for model in rows if (row := peers.get((peer, model.model)))]
    return f"{sum(row.works for row in found)} of {len(found)}"


def _neither_count(rows: Sequence[Row], peers: Peers) -> str:
    both = [
        [row for peer in PEER_NAMES if (row := peers.get((peer, model.model)))] for model in rows
    ]
    tried = [found for found in both if len(found) == len(PEER_NAMES)]
    return f"{sum(not any(row.works for row in found) for found in tried)} of {len(tried)}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
