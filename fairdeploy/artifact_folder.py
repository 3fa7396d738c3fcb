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
from fairdeploy.manifest import MANIFEST_FILE, write_manifest, write_whole
from fairdeploy.output_folder import folder_built_aside
from fairdeploy.reload import PLAN_FILE, PROGRAM_FILE, WEIGHTS_FILE
from fairdeploy.reporting.model_card import model_card
from fairdeploy.surgery.plan import Plan, read_plan

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
ONNX = "onnx"
"""The format that all others are made of."""
ONNX_FILE = "model.onnx"
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


def result_files(suffix: str) -> tuple[str, ...]:
    """Everything that ``fairdeploy shrink`` writes; ``suffix`` is of the exported file."""
    network = (PROGRAM_FILE, WEIGHTS_FILE, PLAN_FILE, f"{Path(ONNX_FILE).stem}{suffix}")
    return (*network, REPORT_FILE, PAGE_FILE, CARD_FILE, MANIFEST_FILE)


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
        document = json.loads((path / REPORT_FILE).read_text(encoding="utf-8"))
        assert isinstance(document, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise ModelError(f"'{path / REPORT_FILE}' is damaged: {error}") from error
    return ArtifactFolder(path, read_plan(path / PLAN_FILE), document)


@contextmanager
def added_to(folder: Path) -> Iterator[Path]:
    """A copy of ``folder`` to add files to; it takes the folder's place when the block ends well.

    Files that are there already must be replaced, not written into: they are shared on disk.

    Raises:
        OutputError: The disk refused; then the folder is as it was.
    """
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
