"""The proof: the original whose consumers read zeros for removed units equals the shrunk network.

Zeros are put where a removed index is summed away (before convolutions, linear layers and matrix
products), not into the weights that make it. So a leak anywhere else, say a mean over channels,
shows as a difference.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.errors import ParityError
from fairdeploy.graph.capture import quiet_export
from fairdeploy.graph.model_outputs import output_tensors
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.input_specs import sizes_text
from fairdeploy.records import ProofResult
from fairdeploy.surgery.removal import StayingIndices

PROOF_LIMIT = 1e-5
BATCH_SIZES = (1, 3)


def zeroed_original(graph: UnitGraph, removed: NDArray[np.bool_]) -> fx.GraphModule:
    """A copy of the original graph in which removed indices are zero wherever they are consumed.

    Weights are shared with the original; only the graph is copied.
    """
    with quiet_export():
        module = fx.GraphModule(graph.module, copy.deepcopy(graph.module.graph))
    nodes = {node.name: node for node in module.graph.nodes}
    stays = StayingIndices(graph, removed)
    masked: dict[tuple[str, int], fx.Node] = {}
    for point in graph.contractions:
        units = graph.value_units[point.argument][point.dim]
        mask = stays.mask(units)
        if mask.all():
            continue
        key = (point.argument, point.dim)
        if key not in masked:
            masked[key] = _insert_mask(module, nodes[point.argument], point.dim, mask)
        consumer = nodes[point.node]
        consumer.replace_input_with(nodes[point.argument], masked[key])
    module.graph.lint()
    module.recompile()
    return module


def _insert_mask(
    module: fx.GraphModule, value: fx.Node, dim: int, mask: NDArray[np.bool_]
) -> fx.Node:
    rank = value.meta["val"].dim()
    dtype = value.meta["val"].dtype
    shape = mask.shape
    if mask.ndim == 1:
        shape = tuple(len(mask) if axis == dim else 1 for axis in range(rank))
    name = f"_mask_of_{value.name}_{dim}"
    module.register_buffer(name, torch.from_numpy(mask.copy()).to(dtype).reshape(shape))
    with module.graph.inserting_after(value):
        constant = module.graph.get_attr(name)
    with module.graph.inserting_after(constant):
        return module.graph.call_function(torch.ops.aten.mul.Tensor, (value, constant))


def prove(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    *,
    seed: int = 0,
    limit: float = PROOF_LIMIT,
    num_inputs: int = 2,
) -> ProofResult:
    """Compare both networks on random inputs at several batch sizes.

    Where image sizes vary, a second one is tried. The error is relative to the largest output of
    the zeroed original; NaN counts as infinite.
    """
    reference = zeroed_original(graph, removed)
    batches = BATCH_SIZES if graph.has_dynamic_batch else (graph.inputs.batch,)
    other = graph.inputs.other_sizes()
    sizes = (graph.inputs.sizes, other) if other else (graph.inputs.sizes,)
    generator = torch.Generator().manual_seed(seed)
    worst, count = 0.0, 0
    with torch.no_grad():
        for batch, at, _ in itertools.product(batches, sizes, range(num_inputs)):
            inputs = graph.inputs.random(batch, generator, at)
            worst = max(worst, relative_error(shrunk(*inputs), reference(*inputs)))
            count += 1
    image_sizes = tuple(sizes_text(at) for at in sizes if at)
    return ProofResult(worst, limit, count, tuple(batches), image_sizes)


def require_proof(result: ProofResult) -> None:
    """Raise if the surgery was not exact.

    Raises:
        ParityError: The error is above the limit, or not a number.
    """
    if not result.passed:
        raise ParityError(
            f"the shrunk network differs from the zeroed original by "
            f"{result.max_relative_error:.1e}, limit {result.limit:.0e}; nothing was kept; this is "
            "a bug: please report it with the model's name"
        )


def relative_error(result: object, reference: object) -> float:
    """Largest difference over all outputs, relative to the reference output's largest value."""
    worst = 0.0
    pairs = list(zip(output_tensors(result), output_tensors(reference), strict=True))
    for ours, theirs in ((a.double(), b.double()) for a, b in pairs):
        if ours.shape != theirs.shape:
            return float("inf")
        if ours.numel() == 0:
            continue
        scale = theirs.abs().max().clamp_min(1e-30)
        error = float(((ours - theirs).abs().max() / scale).item())
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst if pairs else float("inf")
