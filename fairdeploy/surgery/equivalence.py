"""The proof: the original whose consumers read zeros for removed units equals the shrunk network.

Zeros are put where a removed index is summed away (before convolutions, linear layers and matrix
products), not into the weights that make it. So a leak anywhere else, say a mean over channels,
shows as a difference.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fairdeploy.errors import ParityError
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.graph.capture.model_outputs import output_tensors
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ProofResult
from fairdeploy.records.input_specs import sizes_text
from fairdeploy.surgery.removal import StayingIndices

aten = torch.ops.aten
PROOF_LIMIT = 1e-5
BATCH_SIZES = (1, 3)


def zeroed_original(
    graph: UnitGraph, removed: NDArray[np.bool_], *, has_plain_norms: bool = False
) -> fx.GraphModule:
    """A copy of the original graph in which removed indices are zero wherever they are consumed.

    So is a residual branch that goes, in the sum that reads it.

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
    for branch in graph.branches_gone(removed):
        _add_zeros(module, nodes[branch.total], nodes[branch.value])
    for (consumer, argument), dims in summed.items():
        value = nodes[argument]
        for dim in sorted(dims):
            mask = stays.mask(graph.value_units[argument][dim])
            if not mask.all():
                # at the reader: what is written into the value before then must not come back
                value = _insert_mask(
                    module, value, dim, mask, batch=graph.inputs.batch, reader=nodes[consumer]
                )
        nodes[consumer].replace_input_with(nodes[argument], value)
    module.graph.lint()
    module.recompile()
    return module


def _insert_mask(
    module: fx.GraphModule,
    value: fx.Node,
    dim: int,
    mask: NDArray[np.bool_],
    *,
    batch: int,
    reader: fx.Node,
) -> fx.Node:
    """Zeros where the mask says so, for ``reader`` alone; ``batch``: images at capture."""
    example = value.meta["val"]
    shape = mask.shape
    if mask.ndim == 1:
        shape = tuple(len(mask) if axis == dim else 1 for axis in range(example.dim()))
    name = f"_mask_of_{value.name}_{dim}"
    zeros = torch.from_numpy(mask.copy()).to(example.dtype).reshape(shape)
    counts_with_batch = mask.ndim == 1 and not isinstance(example.shape[dim], int)
    if counts_with_batch:
        zeros = zeros.reshape(batch, -1).select(0, 0).reshape([-1 if n > 1 else 1 for n in shape])
    if not hasattr(module, name):
        module.register_buffer(name, zeros)
    with module.graph.inserting_before(reader):
        constant = module.graph.get_attr(name)
        if counts_with_batch:
            length = module.graph.call_function(aten.sym_size.int, (value, dim))
            times = module.graph.call_function(operator.floordiv, (length, zeros.shape[dim]))
            repeats = [times if axis == dim else 1 for axis in range(example.dim())]
            constant = module.graph.call_function(aten.repeat.default, (constant, repeats))
        masked = module.graph.call_function(aten.mul.Tensor, (value, constant))
    masked.meta["val"] = example
    return masked


def _add_zeros(module: fx.GraphModule, total: fx.Node, value: fx.Node) -> None:
    """Let the sum read zeros for one operand (changes both)."""
    with module.graph.inserting_before(total):
        zeros = module.graph.call_function(aten.zeros_like.default, (value,))
    total.replace_input_with(value, zeros)


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
    the zeroed original; NaN counts as infinite. What fails in float32 is compared again in float64.
    """
    reference = zeroed_original(graph, removed)
    changed_norms = norms_that_lose_channels(graph, StayingIndices(graph, removed))
    batches = BATCH_SIZES if graph.has_dynamic_batch else (graph.inputs.batch,)
    other = graph.inputs.other_sizes()
    sizes = (graph.inputs.sizes, other) if other else (graph.inputs.sizes,)
    generator = torch.Generator().manual_seed(seed)
    trials = [
        graph.inputs.random(batch, generator, at)
        for batch, at, _ in itertools.product(batches, sizes, range(num_inputs))
    ]
    error, precision = _largest_error(shrunk, reference, trials), "float32"
    if error > limit:
        error, precision = _largest_error_in_double(shrunk, reference, trials, error)
    by_norms = None
    if changed_norms:
        plain = zeroed_original(graph, removed, has_plain_norms=True)
        by_norms = _largest_error(shrunk, plain, trials)
    return ProofResult(
        error,
        limit,
        len(trials),
        tuple(batches),
        precision=precision,
        image_sizes=tuple(sizes_text(at) for at in sizes if at),
        num_coupled_norms=len(changed_norms),
        norm_coupled_difference=by_norms,
    )


def _largest_error(ours: nn.Module, theirs: nn.Module, trials: list[tuple[Tensor, ...]]) -> float:
    with torch.no_grad():
        return max(relative_error(ours(*inputs), theirs(*inputs)) for inputs in trials)


def _largest_error_in_double(
    ours: nn.Module,
    theirs: fx.GraphModule,
    trials: list[tuple[Tensor, ...]],
    error: float,
) -> tuple[float, str]:
    """The same in float64, where a network that magnifies rounding passes and a wrong one fails.

    Returns:
        The error, and the precision that it holds for; ``error`` as it was where the graph does not
        run in float64.
    """
    if not isinstance(ours, fx.GraphModule):  # another module can be compared, but not rewritten
        return error, "float32"
    trials = [double_inputs(inputs) for inputs in trials]
    try:
        with double_by_default():
            return _largest_error(in_double(ours), in_double(theirs), trials), "float64"
    except (RuntimeError, TypeError):  # a kernel that takes float32 alone
        return error, "float32"


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


# ---- what the proof compares with where norms may lose channels that they take statistics over ---


KeptMasks = Mapping[int, NDArray[np.bool_]]
"""By dimension: which indices stay."""


def norms_that_lose_channels(graph: UnitGraph, stays: StayingIndices) -> dict[str, KeptMasks]:
    """By node name: the dimensions that the norm takes statistics over and that lose indices."""
    found: dict[str, KeptMasks] = {}
    for norm in graph.coupled_norms:
        units = graph.value_units[norm.node]
        masks = {dim: stays.mask(units[dim]) for dim in norm.dims}
        masks = {dim: mask for dim, mask in masks.items() if not mask.all()}
        if masks:
            found[norm.node] = masks
    return found


def take_statistics_over_kept(module: fx.GraphModule, node: fx.Node, masks: KeptMasks) -> None:
    """Let norm ``node`` see the kept indices only; it gives zeros at the others (changes both)."""
    writer = _Writer(module, node)
    rank = node.meta["val"].dim()
    data, vectors = node.args[0], list(node.args[2:4])
    affine_dims = rank if op_name(node) == "group_norm" else 0
    shape = list(node.args[1]) if isinstance(node.args[1], (list, tuple)) else []
    for dim, mask in masks.items():
        data = writer.select(data, dim, np.flatnonzero(mask))
        of_vector = 0 if affine_dims else dim - (rank - len(shape))
        vectors = [
            vector if vector is None else writer.select(vector, of_vector, np.flatnonzero(mask))
            for vector in vectors
        ]
        if shape:
            shape[of_vector] = int(mask.sum())
    rest = (shape or node.args[1], *vectors, *node.args[4:])
    result: object = writer.call(node.target, (data, *rest))
    whole = np.ones([1] * rank, dtype=np.float32)
    for dim, mask in masks.items():
        result = writer.select(result, dim, np.where(mask, np.cumsum(mask) - 1, 0))
        whole = whole * mask.reshape([-1 if axis == dim else 1 for axis in range(rank)])
    zeros = writer.constant(torch.from_numpy(whole).to(node.meta["val"].dtype))
    node.target, node.args, node.kwargs = aten.mul.Tensor, (result, zeros), {}  # type: ignore[assignment]


class _Writer:
    """Puts calls and constants before a node."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self._module, self._node, self._count = module, node, 0

    def call(self, target: object, args: tuple[object, ...]) -> fx.Node:
        with self._module.graph.inserting_before(self._node):
            return self._module.graph.call_function(target, args)  # type: ignore[arg-type]

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        self._count += 1
        name = f"_kept_by_{self._node.name}_{self._count}"
        self._module.register_buffer(name, tensor)
        with self._module.graph.inserting_before(self._node):
            return self._module.graph.get_attr(name)

    def select(self, value: object, dim: int, positions: NDArray[np.int64]) -> fx.Node:
        index = self.constant(torch.from_numpy(positions.astype(np.int64)))
        return self.call(aten.index_select.default, (value, dim, index))


# ---- in float64: tells an inexact surgery from a network that magnifies rounding -----------------


def in_double(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that computes in float64 what ``module`` computes in float32.

    Saturated softmaxes and normalised queries can turn the rounding of float32 into differences of
    whole percents between two networks that are algebraically the same. In float64 such differences
    shrink by nine digits; a wrong surgery's do not.
    """
    with quiet_export():
        result = copy.deepcopy(module)
    result.double()
    for owner in result.modules():
        for name, value in list(vars(owner).items()):
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                setattr(owner, name, value.double())
    for node in list(result.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            result.graph.erase_node(node)  # it insists on float32
            continue
        node.args = map_aggregate(node.args, _doubled)
        node.kwargs = map_aggregate(node.kwargs, _doubled)
    result.recompile()
    return result


@contextmanager
def double_by_default() -> Iterator[None]:
    """Tensors that the graph makes without naming a type are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def double_inputs(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with floating tensors in float64."""
    return tuple(part.double() if part.is_floating_point() else part for part in inputs)


def _doubled(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
