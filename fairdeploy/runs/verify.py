"""``fairdeploy verify``: whether a folder is what was written, and still gives the same outputs.

First the manifest: every file's size and SHA-256, none missing, none more. If that holds, the ONNX
file must name the plan that lies beside it, and must give what ``model.pt2`` gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.deployment.parity import check_parity
from fairdeploy.deployment.variant_checks import tolerance_of
from fairdeploy.errors import FairdeployError
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.capture.model_outputs import find_batch_dims
from fairdeploy.records import ParityResult
from fairdeploy.runs.folder.artifact_folder import ONNX_FILE, ArtifactFolder, open_folder
from fairdeploy.runs.folder.file_metadata import PLAN_KEY
from fairdeploy.runs.folder.manifest import Discrepancy, discrepancies, read_manifest
from fairdeploy.runs.folder.reload import PLAN_FILE
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.tasks.classification import Classification

_TARGET = "cpu"
_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found."""

    folder: Path
    num_files: int
    problems: tuple[Discrepancy, ...]
    parity: tuple[ParityResult, ...]
    """Empty if files differ, or if running them was not asked for."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """For ``--json``, version 1."""
        return {
            "schema_version": 1,
            "folder": str(self.folder),
            "passed": self.passed,
            "num_files": self.num_files,
            "problems": [asdict(problem) for problem in self.problems],
            "parity": [asdict(row) | {"passed": row.passed} for row in self.parity],
        }


def verify(folder: Path, *, with_run: bool = True) -> Verification:
    """Check every file of ``folder``, then run the ONNX file against the network in torch.

    Args:
        folder: What ``shrink`` or ``export`` wrote.
        with_run: Whether to open and run files; hashes alone take no torch.

    Raises:
        OutputError: There is no manifest, or it is damaged.
    """
    listed = read_manifest(folder)
    problems = tuple(discrepancies(folder, listed))
    parity: tuple[ParityResult, ...] = ()
    if not problems and with_run:
        try:
            problems, parity = _run(open_folder(folder))
        except FairdeployError as error:
            problems = (Discrepancy(str(folder), f"cannot be run: {error}"),)
    return Verification(folder, len(listed), problems, parity)


def _run(folder: ArtifactFolder) -> tuple[tuple[Discrepancy, ...], tuple[ParityResult, ...]]:
    parity = _parity(folder)
    problems = [*_plan_problems(folder)]
    problems += [
        Discrepancy(row.artifact, f"differs from model.pt2 {row.how_far}")
        for row in parity
        if not row.passed
    ]
    return tuple(problems), parity


def _plan_problems(folder: ArtifactFolder) -> Iterator[Discrepancy]:
    told = folder.told.metadata.get(PLAN_KEY)
    found = hashlib.sha256((folder.path / PLAN_FILE).read_bytes()).hexdigest()
    if told is not None and told != found:
        yield Discrepancy(PLAN_FILE, "is not the plan that the other files were made with")


def _are_classes_known(document: Mapping[str, Any]) -> bool | None:
    """Whether labels told that the outputs are scores of classes, or that they are not."""
    if document.get("not_judged"):
        return False
    return (document["data"] or {}).get("label_source") == "given" or None


def _parity(folder: ArtifactFolder) -> tuple[ParityResult, ...]:
    if not (folder.path / ONNX_FILE).is_file():
        return ()
    network = folder.load_network()
    told = folder.told.fixed_batch
    inputs = model_inputs(network, folder.plan.inputs, folder.plan.input_shape, told)
    tensors = inputs.random(told or _EXAMPLES, torch.Generator().manual_seed(0))
    profile = load_profile(_TARGET)
    tolerance = tolerance_of(folder.told.onnx_precision, profile.parity_limit)
    runner = get_exporter(profile.runtime).open(folder.path / ONNX_FILE, profile)
    try:
        return check_parity(
            runner, network, ONNX_FILE, tensors,
            batches=(told,) if told else (1, 3),
            limit=tolerance.max_relative_error, max_column_error=tolerance.max_column_error,
            task=Classification(is_known=_are_classes_known(folder.document)),
            main_output=folder.told.main_output, batch_dims=find_batch_dims(network, inputs),
        )  # fmt: skip
    finally:
        runner.close()
