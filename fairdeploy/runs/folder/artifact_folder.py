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

from torch import fx, nn
from torch.utils._pytree import tree_leaves

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.errors import ModelError, OutputError
from fairdeploy.files import folder_built_aside, read_regular_text, write_whole
from fairdeploy.reporting.chain import chain_of
from fairdeploy.reporting.json_tree import json_tree
from fairdeploy.reporting.model_card import model_card
from fairdeploy.runs.folder.file_metadata import MAIN_OUTPUT_KEY
from fairdeploy.runs.folder.manifest import MANIFEST_FILE, is_own_file, write_manifest
from fairdeploy.runs.folder.reload import PLAN_FILE, PROGRAM_FILE, WEIGHTS_FILE, load
from fairdeploy.surgery.plan import Plan, read_plan

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
ONNX = "onnx"
"""The format that all others are made of."""
ONNX_FILE = "model.onnx"
CARD_FILE = "MODEL_CARD.md"
SCRIPT_FILE = "run.py"
_LONGEST_REASON = 200
_MOST_IMAGES = 2**16
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Told:
    """What ``report.json`` says that decides something, checked."""

    seed: int
    fixed_batch: int | None
    main_output: int
    """Place of the output with the scores."""
    source: str | None
    """Of the images; None where they were noise, or nothing is said."""
    class_names: tuple[str, ...] | None
    metadata: Mapping[str, str]
    """What its files carry inside; empty for folders of earlier versions."""
    onnx_precision: str
    """Of ``model.onnx``."""


@dataclass(frozen=True, slots=True)
class ArtifactFolder:
    """What ``fairdeploy shrink`` wrote."""

    path: Path
    plan: Plan
    document: Mapping[str, Any]
    """The tree of ``report.json``; the chain can be told from it."""
    told: Told

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
        if self.told.onnx_precision != "fp32":
            raise ModelError(
                f"'{self.path / ONNX_FILE}' is {self.told.onnx_precision}, and other files are "
                "made of fp32; shrink for another target, such as cpu"
            )

    def load_network(self) -> nn.Module:
        """The network in torch.

        Raises:
            ModelError: It is damaged, or lacks the output that the report names.
        """
        network = load(self.path)
        assert isinstance(network, fx.GraphModule)
        (end,) = (node for node in network.graph.nodes if node.op == "output")
        with reading(self.path / REPORT_FILE):
            _number(self.told.main_output, 0, len(tree_leaves(end.args)) - 1)
        return network


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
    with reading(path / REPORT_FILE):
        document = read_report(path)
        told = _told(document)
        chain_of(document)
    return ArtifactFolder(path, read_plan(path / PLAN_FILE), document, told)


def read_report(folder: Path) -> dict[str, Any]:
    """The tree of ``report.json``; what it holds is not looked at.

    Raises:
        ModelError: There is none, or it is no JSON.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        raise ModelError(f"'{folder}' holds no {REPORT_FILE}; give a folder that shrink wrote")
    with reading(path):
        return json_tree(json.loads(read_regular_text(path)))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a document that is not as it was written that it is damaged.

    Raises:
        ModelError: A key is missing, or a value is not of its kind.
    """
    try:
        yield
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        text = f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_REASON]
        raise ModelError(f"'{path}' is damaged ({text}); shrink the network again") from error


def _told(document: Mapping[str, Any]) -> Told:
    data, metadata = document["data"], document.get("file_metadata") or {}
    precisions = {row["path"]: row["precision"] for row in document["artifacts"]}
    if not all(
        isinstance(text, str) for pair in (*metadata.items(), *precisions.items()) for text in pair
    ):
        raise ValueError("file_metadata or artifacts hold more than texts")
    is_real = data is not None and not data["is_synthetic"]
    fixed_batch, names = document["model"]["fixed_batch"], (data or {}).get("class_names")
    return Told(
        seed=_number(document["seed"], 0, _LARGEST_SEED),
        fixed_batch=None if fixed_batch is None else _number(fixed_batch, 1, _MOST_IMAGES),
        main_output=_number(int(metadata.get(MAIN_OUTPUT_KEY, "0")), 0, _MOST_IMAGES),
        source=str(data["source"]) if is_real else None,
        class_names=tuple(map(str, names)) if names else None,
        metadata=metadata,
        onnx_precision=precisions.get(ONNX_FILE, "fp32"),
    )


def _number(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{value!r} instead of a whole number from {least} to {most}")
    return value


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
    has_file = (folder / ONNX_FILE).is_file() and document.get("preprocessing") is not None
    script = get_exporter(ONNX).stand_alone_script() if has_file else None
    if script is not None:
        write_whole(folder / SCRIPT_FILE, script)
    write_whole(folder / CARD_FILE, model_card(document))
    write_manifest(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
