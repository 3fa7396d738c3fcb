"""The proof: the original whose consumers read zeros for removed units equals the shrunk network.

Zeros are put where a removed index is summed away (before convolutions, linear layers and matrix
products), not into the weights that make it. So a leak anywhere else, say a mean over channels,
shows as a difference.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import ParityError
from fairdeploy.graph.capture import quiet_export
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ProofResult
from fairdeploy.surgery.coupled_norms import norms_that_lose_channels, take_statistics_over_kept
from fairdeploy.surgery.removal import StayingIndices

PROOF_LIMIT = 1e-5
BATCH_SIZES = (1, 3)


def zeroed_original(
    graph: UnitGraph, removed: NDArray[np.bool_], *, has_plain_norms: bool = False
) -> fx.GraphModule:
    """A copy of the original graph in which removed indices are zero wherever they are consumed.

    Weights are shared with the original; only the graph is copied.

    Args:
        has_plain_norms: Let norms take their statistics over the zeros too, which no shrunk network
            does. Otherwise they take them over the kept channels. See ``coupled_norms``.
    """
    with quiet_export():
        module = fx.GraphModule(graph.module, copy.deepcopy(graph.module.graph))
    nodes = {node.name: node for node in module.graph.nodes}
    stays = StayingIndices(graph, removed)
    summed: dict[tuple[str, str], set[int]] = defaultdict(set)
    for point in graph.contractions:
        summed[point.node, point.argument].add(point.dim)
    for name, masks in norms_that_lose_channels(graph, stays).items():
        (data,) = nodes[name].all_input_nodes[:1]
        if has_plain_norms:
            summed[name, data.name].update(masks)
        else:
            take_statistics_over_kept(module, nodes[name], masks)
    masked: dict[tuple[str, int], fx.Node] = {}
    for (consumer, argument), dims in summed.items():
        value = nodes[argument]
        for dim in sorted(dims):
            mask = stays.mask(graph.value_units[argument][dim])
            if mask.all():
                continue
            key = (value.name, dim)
            if key not in masked:
                masked[key] = _insert_mask(module, value, dim, mask)
            value = masked[key]
        nodes[consumer].replace_input_with(nodes[argument], value)
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
        masked = module.graph.call_function(torch.ops.aten.mul.Tensor, (value, constant))
    masked.meta["val"] = value.meta["val"]
    return masked


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

    The error is relative to the largest output of the zeroed original; NaN counts as infinite.
    """
    reference = zeroed_original(graph, removed)
    changed_norms = norms_that_lose_channels(graph, StayingIndices(graph, removed))
    plain = zeroed_original(graph, removed, has_plain_norms=True) if changed_norms else None
    by_norms = 0.0
    sizes = BATCH_SIZES if graph.has_dynamic_batch else (len(_first(graph)),)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    with torch.no_grad():
        for size in sizes:
            for _ in range(num_inputs):
                inputs = _random_inputs(graph, size, generator)
                result = shrunk(*inputs)
                worst = max(worst, relative_error(result, reference(*inputs)))
                if plain is not None:
                    by_norms = max(by_norms, relative_error(result, plain(*inputs)))
    return ProofResult(
        worst,
        limit,
        num_inputs * len(sizes),
        tuple(sizes),
        num_coupled_norms=len(changed_norms),
        norm_coupled_difference=by_norms if plain is not None else None,
    )


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
    pairs = list(zip(_tensors(result), _tensors(reference), strict=True))
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            return float("inf")
        scale = theirs.abs().max().clamp_min(1e-30)
        error = float(((ours - theirs).abs().max() / scale).item())
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst if pairs else float("inf")


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.double()] if value.is_floating_point() else [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _first(graph: UnitGraph) -> Tensor:
    first = graph.example_inputs[0]
    assert isinstance(first, Tensor)
    return first


def _random_inputs(graph: UnitGraph, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    inputs = []
    for example in graph.example_inputs:
        assert isinstance(example, Tensor)
        inputs.append(random_like(example, (size, *example.shape[1:]), generator))
    return tuple(inputs)


def random_like(example: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers; whole numbers are drawn from the example's, as they may count something."""
    if example.is_floating_point() or not example.numel():
        return torch.randn(shape, generator=generator).to(example.dtype)
    chosen = torch.randint(example.numel(), shape, generator=generator)
    return example.detach().cpu().flatten()[chosen]
