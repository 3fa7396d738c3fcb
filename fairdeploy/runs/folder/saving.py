"""Write a shrunk network so that it comes back without pickles: program, weights and plan."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, fx

from fairdeploy.errors import OutputError
from fairdeploy.graph.capture.capture import export_program, quiet_export
from fairdeploy.graph.capture.model_inputs import ModelInputs
from fairdeploy.records import Artifact
from fairdeploy.runs.folder.reload import PLAN_FILE, PROGRAM_FILE, WEIGHTS_FILE
from fairdeploy.surgery.plan import Plan


def write_network(
    folder: Path, module: fx.GraphModule, inputs: ModelInputs, plan: Plan
) -> tuple[Artifact, ...]:
    """Write ``model.pt2``, ``weights.safetensors`` and ``plan.json`` into ``folder``.

    Raises:
        OutputError: The disk refused.
    """
    program = export_program(module, inputs).program
    archive = io.BytesIO()
    with quiet_export():
        torch.export.save(program, archive)
    try:
        (folder / PROGRAM_FILE).write_bytes(archive.getvalue())
        (folder / WEIGHTS_FILE).write_bytes(save(unshared_tensors(module)))
        (folder / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write in '{folder}': {error.strerror or error}") from error
    return (
        describe_artifact(folder, PROGRAM_FILE, "pt2"),
        describe_artifact(folder, WEIGHTS_FILE, "safetensors"),
        describe_artifact(folder, PLAN_FILE, "plan"),
    )


def unshared_tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    """What the state dict holds, each tensor once, contiguous; constants of the graph are none."""
    saved = module.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in saved:
            tensors[name] = tensor.detach().contiguous()
    return tensors


def describe_artifact(folder: Path, name: str, file_format: str) -> Artifact:
    """Size and SHA-256 of a file that was written."""
    content = (folder / name).read_bytes()
    return Artifact(
        path=name,
        format=file_format,
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
