"""What came out for each model, a JSON line each; the newest line of a model counts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")
_CODE = ("fairdeploy/**/*.py", "exporters/**/*.py", "profiles/cpu.toml")
_LAWS = ("laws.py", "zoo.py", "random_weights.py", "unit_scale.py", "image_response.py")


@dataclasses.dataclass(slots=True)
class Row:
    """One model through everything; None where it did not get that far."""

    model: str
    family: str = ""
    fingerprint: str = ""
    stage: str = "start"
    """The last stage that was entered; ``done`` if all were."""
    failed_stage: str = ""
    failure: str = ""
    has_dynamic_batch: bool | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    num_params: int | None = None
    """Parameters in the captured graph."""
    num_nodes: int | None = None
    num_groups: int | None = None
    num_units: int | None = None
    reachable: float | None = None
    """Smallest share of the parameters that can be left."""
    kept: float | None = None
    budget: float | None = None
    proof: float | None = None
    proof_precision: str = ""
    """``float64`` where float32 was beyond the limit."""
    num_coupled_norms: int = 0
    """Layer norms that lost channels: there the removal is not exact, and nothing is proved."""
    norm_coupled_difference: float | None = None
    """What these norms change, relative to the largest output."""
    onnx: dict[str, float] = dataclasses.field(default_factory=dict)
    """Error by batch size."""
    own_class: str = ""
    num_graph_parts: int = 0
    """Modules of it that came back as pieces of the graph."""
    own_class_reason: str = ""
    frozen: tuple[str, ...] = ()
    """The largest frozen groups and why, where half of the parameters can't go."""
    seconds_by_stage: dict[str, float] = dataclasses.field(default_factory=dict)
    """CPU seconds of this process, so that other work on the machine does not count."""
    seconds: float = 0.0
    """Wall clock, everything, imports too."""
    peak_mib: int | None = None

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return self.stage == "done" and not self.failure

    @property
    def surgery_s(self) -> float | None:
        """CPU seconds of unit graph and surgery, without the capture."""
        if "surgery" not in self.seconds_by_stage:
            return None
        return self.seconds_by_stage["unit graph"] + self.seconds_by_stage["surgery"]


@dataclasses.dataclass(slots=True)
class PeerRow:
    """One model through one peer."""

    model: str
    peer: str = ""
    fingerprint: str = ""
    stage: str = "start"
    works: bool = False
    failed_stage: str = ""
    failure: str = ""
    kept: float | None = None
    """Share of the parameters that is left."""
    cpu_s: float = 0.0
    seconds: float = 0.0
    peak_mib: int | None = None


AnyRow = TypeVar("AnyRow", Row, PeerRow)


def our_fingerprint() -> str:
    """Changes with the code under test, the laws, and the versions that the result depends on."""
    files = sorted(path for glob in _CODE for path in ROOT.glob(glob))
    files += [Path(__file__).parent / name for name in _LAWS]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{digest.hexdigest()[:16]} {describe_versions(PACKAGES)}"


def describe_versions(packages: Iterable[str]) -> str:
    """Python's and these packages' versions, on one line."""
    found = [f"{name} {version(name)}" for name in packages]
    return ", ".join([f"python {platform.python_version()}", *found])


def write_row(row: Row | PeerRow, path: Path) -> None:
    """Write one row to a file of its own; a reader never sees half of it."""
    scratch = path.with_suffix(".part")
    scratch.write_text(_line(row), encoding="utf-8")
    os.replace(scratch, path)


def append_row(row: Row | PeerRow, path: Path) -> None:
    """Add a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))


def read_rows(path: Path, row_type: type[AnyRow]) -> dict[tuple[str, str], AnyRow]:
    """The newest row by (peer, model); the peer is empty for our own."""
    if not path.exists():
        return {}
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = row_type(**_known_fields(json.loads(line), row_type))
        rows[(getattr(row, "peer", ""), row.model)] = row
    return rows


def compact(path: Path, row_type: type[AnyRow]) -> None:
    """Drop all lines but each model's newest."""
    rows = read_rows(path, row_type)
    scratch = path.with_suffix(".part")
    scratch.write_text("".join(_line(row) for row in rows.values()), encoding="utf-8")
    os.replace(scratch, path)


def _line(row: Row | PeerRow) -> str:
    return json.dumps(dataclasses.asdict(row)) + "\n"


def _known_fields(values: dict[str, Any], row_type: type[AnyRow]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(row_type)}
    return {name: value for name, value in values.items() if name in names}
