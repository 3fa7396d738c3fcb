"""The folder that is deployed: opened, added to, and closed with card, script and manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.deployment.conversion import RunsAlone, plug_in_of
from fairdeploy.deployment.exporter_api import get_exporter, guarded
from fairdeploy.errors import ModelError, OutputError
from fairdeploy.file_metadata import MAIN_OUTPUT_KEY
from fairdeploy.manifest import is_own_file, read_regular_text, write_manifest, write_whole
from fairdeploy.output_folder import folder_built_aside
from fairdeploy.reload import PLAN_FILE
from fairdeploy.reporting.chain import chain_of
from fairdeploy.reporting.model_card import model_card
from fairdeploy.surgery.plan import Plan, read_plan

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
ONNX = "onnx"
"""The format that all others are made of."""
ONNX_FILE = "model.onnx"
_MAX_BATCH = 65_536
_NOT_AS_WRITTEN = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError,
)  # fmt: skip
CARD_FILE = "MODEL_CARD.md"
SCRIPT_FILE = "run.py"


@dataclass(frozen=True, slots=True)
class ArtifactFolder:
    """What ``fairdeploy shrink`` wrote."""

    path: Path
    plan: Plan
    document: Mapping[str, Any]
    """The tree of ``report.json``."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What its files carry inside; empty for folders of earlier versions."""
        found: Mapping[str, str] = self.document.get("file_metadata") or {}
        return found

    @property
    def onnx_precision(self) -> str:
        """Of ``model.onnx``."""
        rows = {row["path"]: row["precision"] for row in self.document["artifacts"]}
        return str(rows.get(ONNX_FILE, "fp32"))

    def require_whole_report(self) -> None:
        """Refuse a report that the card and the chain of the folder cannot be written from.

        Raises:
            ModelError: Something in it is missing or of another kind.
        """
        try:
            int(self.document["seed"])
            model_card({**self.document, "chain": chain_of(self.document)})
        except _NOT_AS_WRITTEN as error:
            raise _damaged(self.path / REPORT_FILE, error) from error

    def require_full_onnx(self) -> None:
        """Refuse a folder that no other files can be made from.

        Raises:
            ModelError: Its ONNX file is missing, or not in full precision.
        """
        if not (self.path / ONNX_FILE).is_file():
            raise ModelError(
                f"'{self.path}' holds no {ONNX_FILE}, which other files are made of; shrink for a "
                "target of ONNX Runtime, such as cpu"
            )
        if self.onnx_precision != "fp32":
            raise ModelError(
                f"'{self.path / ONNX_FILE}' is {self.onnx_precision}, and other files are made of "
                "fp32; shrink for another target, such as cpu"
            )


def open_folder(path: Path) -> ArtifactFolder:
    """Read the plan and the report.

    Raises:
        ModelError: Not such a folder.
        PlanError: The plan is damaged.
    """
    if not (path / REPORT_FILE).is_file() or not (path / PLAN_FILE).is_file():
        raise ModelError(
            f"'{path}' holds no {REPORT_FILE} and {PLAN_FILE}; give a folder that "
            "fairdeploy shrink wrote"
        )
    try:
        document = json.loads(read_regular_text(path / REPORT_FILE))
        _check_report(document)
    except (OSError, RecursionError, *_NOT_AS_WRITTEN) as error:
        raise _damaged(path / REPORT_FILE, error) from error
    return ArtifactFolder(path, read_plan(path / PLAN_FILE), document)


def _check_report(document: Any) -> None:
    """Look at what opening a folder needs; see ``require_whole_report`` for the rest."""
    batch, metadata = document["model"]["fixed_batch"], document.get("file_metadata") or {}
    if batch is not None and not (type(batch) is int and 0 < batch <= _MAX_BATCH):
        raise ValueError(f"fixed_batch is {batch!r}")
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise ValueError("file_metadata holds more than texts")
    int(metadata.get(MAIN_OUTPUT_KEY, "0"))
    for row in document["artifacts"]:
        if not isinstance(row["path"], str) or not isinstance(row["precision"], str):
            raise ValueError("an artifact is not named")


def _damaged(path: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"'{path}' is damaged ({type(error).__name__}: {error}); shrink the network again"
    )


@contextmanager
def added_to(folder: Path) -> Iterator[Path]:
    """A copy of ``folder`` to add files to; it takes the folder's place when the block ends well.

    Files that are there already must be replaced, not written into: they are shared on disk.

    Raises:
        OutputError: The disk refused; then the folder is as it was.
    """
    odd = next(
        (p for p in folder.rglob("*") if not p.is_dir() and not is_own_file(folder, p)), None
    )
    if odd is not None:
        raise OutputError(f"'{odd}' is a link, pipe or device; put the file itself there")
    with folder_built_aside(folder, "make space there") as scratch:
        try:
            shutil.copytree(folder, scratch, copy_function=_link, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise OutputError(
                f"cannot write beside '{folder}': {error}; make space there"
            ) from error
        yield scratch


def complete_folder(folder: Path, document: Mapping[str, Any]) -> None:
    """Write the script, the model card and, last, the manifest.

    Raises:
        OutputError: The disk refused.
    """
    plug_in = plug_in_of(get_exporter(ONNX)) if (folder / ONNX_FILE).is_file() else None
    if isinstance(plug_in, RunsAlone):
        with guarded(f"exporter '{ONNX}' failed"):
            script = plug_in.stand_alone_script()
        write_whole(folder / SCRIPT_FILE, script)
    write_whole(folder / CARD_FILE, model_card(document))
    write_manifest(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
