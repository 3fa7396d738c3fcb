"""Bring a shrunk network back: from its folder, or from the original model and a plan.

Nothing here runs a pickle: the graph is read from the ``.pt2`` archive, weights from safetensors.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, fx, nn

from fairdeploy.errors import ModelError, OutputError, PlanError
from fairdeploy.files import require_regular
from fairdeploy.graph.capture.capture import export_program, quiet_export
from fairdeploy.graph.capture.model_inputs import ModelInputs, model_inputs
from fairdeploy.graph.capture.train_mode import set_modes
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.checkpoint_contents import unwrapped
from fairdeploy.inputs.exported_programs import load_exported_program
from fairdeploy.records import Artifact
from fairdeploy.surgery.optimizer_state import AnyOptimizer, kept_masks, sliced_optimizer
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.plan import Plan, read_plan
from fairdeploy.surgery.removal import remove_units

PROGRAM_FILE = "model.pt2"
WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load the shrunk, repaired network from the folder that ``fairdeploy shrink`` wrote.

    Args:
        folder: Holds ``model.pt2``, or ``plan.json`` and ``weights.safetensors``.
        model: The original network, whose weights do not matter. If given, the result is of its
            own class wherever that is possible; otherwise it is a graph module.

    Returns:
        The network in eval mode.

    Raises:
        ModelError: A file is missing or damaged.
        PlanError: ``model`` is not what the plan was made for.
    """
    folder = Path(folder)
    if model is None:
        path = folder / PROGRAM_FILE
        if not path.is_file():
            raise ModelError(f"no '{PROGRAM_FILE}' in '{folder}'; give a folder that shrink wrote")
        return load_exported_program(path, trust_pickle=False).module.eval()
    shrunk = apply(model, folder / PLAN_FILE)
    path = folder / WEIGHTS_FILE
    try:
        require_regular(path)
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read '{path}': {error}") from error
    return _with_weights(shrunk, weights, path)


@overload
def apply(model: nn.Module, plan: Plan | str | Path) -> nn.Module: ...


@overload
def apply(
    model: nn.Module, plan: Plan | str | Path, *, optimizer: AnyOptimizer
) -> tuple[nn.Module, AnyOptimizer]: ...


def apply(
    model: nn.Module, plan: Plan | str | Path, *, optimizer: AnyOptimizer | None = None
) -> nn.Module | tuple[nn.Module, AnyOptimizer]:
    """Remove a plan's units from ``model``, which is left as it is.

    The weights are those of ``model``, sliced; for the repaired ones use ``load``.

    Args:
        model: As it was shrunk, or in a data-parallel, averaging or compiling wrapper.
        plan: What ``shrink`` wrote, or its file.
        optimizer: Of ``model``, in the middle of training. It stays as it is; the second result
            goes on from its state, sliced like the weights. Schedulers must be made anew.

    Returns:
        A network of the model's own class if its forward works with the new sizes, otherwise the
        proved graph module; in eval mode. With ``optimizer``, the network and its optimizer.

    Raises:
        PlanError: The plan was made for another model.
        OptimizerError: The optimizer is not the model's, or its state can't be sliced.
    """
    if not isinstance(plan, Plan):
        plan = read_plan(Path(plan))
    model = unwrapped(model)
    if next(model.parameters(), None) is None:
        raise PlanError("the model has no parameters; give the network that the plan was made for")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        inputs = model_inputs(model, plan.inputs, plan.input_shape, plan.fixed_batch)
        graph = build_unit_graph(
            model,
            inputs,
            attention=plan.attention,
            allow_norm_coupled=plan.allow_norm_coupled,
            blocks=plan.blocks,
        )
        removed = plan.removed_mask(graph)
        shrunk = remove_units(graph, removed)
        own, _ = rebuild_own_class(model, graph, shrunk.module)
    finally:
        set_modes(model, modes)
    network = (own if own is not None else shrunk.module).eval()
    if optimizer is None:
        return network
    return network, sliced_optimizer(optimizer, model, network, kept_masks(graph, removed))


def _with_weights(module: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """Load ``weights`` by name (changes ``module``); names that the module shares may be absent."""
    own: dict[str, torch.Tensor] = {
        **module.state_dict(),
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    unknown = sorted(set(weights) - set(own))
    different = [name for name in weights if name in own and weights[name].shape != own[name].shape]
    if unknown or different:
        name = (unknown + different)[0]
        raise PlanError(f"'{path}' does not fit this model: tensor '{name}'")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    return module


# ---- write a shrunk network so that it comes back without pickles: program, weights and plan -----


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
