"""Whether a network of the user's class is the proved one."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fairdeploy.errors import ModelError
from fairdeploy.graph.call_facts import fetch_tensor, module_path
from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.capture.kept_state import unchanged
from fairdeploy.graph.capture.weight_folding import SUFFIX
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.walk.freezes import source_line
from fairdeploy.surgery.equivalence import (
    PROOF_LIMIT,
    double_by_default,
    double_inputs,
    in_double,
    relative_error,
)

MAX_ROUNDING = 1e-2
"""More than this is never the rounding of float32: nothing is captured again for it."""


def disagreement(module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule) -> str:
    """Why ``module`` is not the proved network; empty if it is, at other batches and sizes too."""
    missing = missing_parameters(module, shrunk)
    if missing:
        return f"its code computes '{missing[0].removesuffix(SUFFIX)}' anew at every call"
    generator = torch.Generator().manual_seed(0)
    inputs = [graph.inputs.random(graph.inputs.batch, generator)]
    if graph.has_dynamic_batch:
        inputs.append(graph.inputs.random(graph.inputs.batch + 1, generator))
    if graph.inputs.sizes:
        sizes = graph.inputs.other_sizes()
        inputs.append(graph.inputs.random(graph.inputs.batch, generator, sizes))
    for tensors in inputs:
        try:
            error = own_class_error(module, graph, shrunk, tensors)
        except Exception as failure:  # user code may fail in any way with other sizes
            return f"its forward fails with the new sizes: {first_line(failure)}"
        if not error <= PROOF_LIMIT:
            where = old_lengths_kept(graph.module, shrunk)
            cause = f", which divides by the old number of channels in {where}" if where else ""
            return f"its forward differs by {error:.1e} from the proved network{cause}"
    return ""


def missing_parameters(module: nn.Module, shrunk: fx.GraphModule) -> list[str]:
    """Names of parameters that the graph alone has: weights that the user's code computes."""
    names = (name for name, _ in shrunk.named_parameters())
    return [name for name in names if fetch_tensor(module, name) is None]


def own_class_error(
    module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule, tensors: tuple[Tensor, ...]
) -> float:
    """Largest difference of the outputs, relative to the largest of the proved network.

    What rounding may explain is compared again in float64.
    """
    with torch.no_grad(), unchanged(module):
        error = relative_error(graph.inputs.call(module, tensors), shrunk(*tensors))
    if PROOF_LIMIT < error <= MAX_ROUNDING:
        return _error_in_double(module, graph, shrunk, tensors, error)
    return error


def _error_in_double(
    module: nn.Module,
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    tensors: tuple[Tensor, ...],
    error: float,
) -> float:
    """The same in float64; ``error`` as it was where the module does not run in that.

    The module's own code may ask for float32 by name; its graph can be told otherwise.
    """
    try:
        own = capture(module, graph.inputs).module
        with torch.no_grad(), double_by_default():
            doubled = double_inputs(tensors)
            return relative_error(in_double(own)(*doubled), in_double(shrunk)(*doubled))
    except (ModelError, RuntimeError, TypeError):  # a kernel that takes float32 alone
        return error


def first_line(failure: BaseException) -> str:
    """What the user is told of an exception."""
    text = str(failure).strip().splitlines()
    return text[0] if text else repr(failure)


def old_lengths_kept(original: fx.GraphModule, shrunk: fx.GraphModule) -> str:
    """Where the shrunk network divides by a length that is gone; empty if nowhere.

    The user's own code divides by the new length there.
    """
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    for node in original.graph.nodes:
        is_divided = node.op == "call_function" and op_name(node) in {"mean", "rms_norm"}
        after = rewritten.get(node.name)
        if is_divided and after is not None and after.target is not node.target:
            return f"'{op_name(node)}' at {source_line(node) or module_path(node)}"
    return ""
