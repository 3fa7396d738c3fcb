"""The results as Markdown: ours and the peers' side by side, and why whatever failed did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conformance.rows import PeerRow, Row

_HEAD = (
    "model", "parameters", "nodes", "groups", "units", "kept", "zeroed = shrunk", "ONNX b1",
    "ONNX b3", "own class", "surgery s", "all s", "MiB", "fairdeploy", "Torch-Pruning",
    "network-pruner",
)  # fmt: skip


def describe_row(row: Row) -> str:
    """One line for the terminal."""
    verdict = f"FAIL at {row.failed_stage}: {row.failure}" if row.failure else row.stage
    kept = f"{row.kept:.1%}" if row.kept is not None else "-"
    own = row.own_class or f"no ({row.own_class_reason})"
    surgery = f"{row.surgery_s:.1f}" if row.surgery_s is not None else "-"
    return (
        f"{row.model}: {verdict} | kept {kept} | own class {own} | nodes {row.num_nodes} | "
        f"surgery {surgery} s | {row.seconds:.0f} s | {row.peak_mib} MiB"
    )


def write_table(
    rows: Sequence[Row], peers: Mapping[tuple[str, str], PeerRow], path: Path
) -> None:
    """Write the whole page."""
    raise NotImplementedError
