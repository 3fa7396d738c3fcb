"""From a user's module to a functional ATen graph, through ``torch.export``.

The graph takes one tensor per input, by position or by name, whatever the user's forward looks
like, and returns the same nest of tensors in plain dictionaries, lists and tuples.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.kept_state import emptied_caches, tensor_caches, unchanged
from fairdeploy.graph.capture.model_inputs import ModelInputs, bound, inputs_of_example
from fairdeploy.graph.capture.model_outputs import (
    ModelOutputs,
    output_tensors,
    plain_output_spec,
    read_outputs,
    register_dataclasses,
)
from fairdeploy.graph.capture.refusals import refused_inputs, refused_sizes, refused_trace
from fairdeploy.graph.capture.train_mode import switchable
from fairdeploy.graph.capture.weight_folding import fold_weights
from fairdeploy.graph.capture.written_views import FunctionalWrites
from fairdeploy.graph.operators import is_view, kind_of, op_name
from fairdeploy.records.input_specs import VaryingSize

_SAME_LIMIT = 1e-4
# 16 GiB in one tensor, with two images.
_MAX_ELEMENTS = 2**32


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A functional graph module that shares its tensors with the captured module."""

    module: fx.GraphModule
    has_dynamic_batch: bool
    inputs: ModelInputs
    outputs: ModelOutputs


@dataclass(frozen=True, slots=True)
class Traced:
    """An exported program, and the inputs that it was exported with."""

    program: torch.export.ExportedProgram
    has_dynamic_batch: bool
    inputs: ModelInputs


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keep torch's export warnings and log lines from the user."""
    # torch prints the traced graph to stderr when it refuses a model
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export_program(module: nn.Module, inputs: ModelInputs) -> Traced:
    """Export with a dynamic batch, or with a fixed one (two images, else one) if it refuses.

    Raises:
        ModelError: The module cannot be run or traced with these inputs, or a size that should
            vary cannot; says where in the user's code.
    """
    with quiet_export(), torch.no_grad():
        traced, error = _attempt(module, inputs, has_dynamic_batch=not inputs.is_batch_fixed)
        if traced is None:
            traced, error = _attempt_again(module, inputs, error)
        if traced is None and inputs.sizes:
            raise refused_sizes(_stiff_sizes(module, inputs), inputs, error) from error
    if traced is None:
        raise refused_trace(module, error) from error
    return traced


def capture(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...] | ModelInputs,
    main_output: str | None = None,
) -> CapturedGraph:
    """Capture ``module`` in eval mode as one flat graph of ATen calls.

    Args:
        module: In eval mode; not changed, whatever its forward keeps on itself.
        example_inputs: A batch of ``EXAMPLE_BATCH`` images for each input.
        main_output: Name of the output to score; None: the first of floating point.

    Raises:
        ModelError: The module cannot be run or traced with these inputs, or a size that should
            vary cannot or changes which code runs.
        UsageError: There is no such output.
    """
    inputs = example_inputs
    if not isinstance(inputs, ModelInputs):
        inputs = inputs_of_example(module, inputs)
    with unchanged(module):
        return _captured(module, inputs, main_output)


def _captured(module: nn.Module, inputs: ModelInputs, main_output: str | None) -> CapturedGraph:
    traced = _export_without_caches(module, inputs)
    _refuse_giants(traced.program)
    with quiet_export():
        graph_module = traced.program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    _take_flat_inputs(graph_module, inputs.names)
    captured = switchable(make_functional(graph_module))
    fold_weights(captured)
    inputs = with_value_ranges(captured, traced.inputs)
    inputs = replace(inputs, is_batch_fixed=not traced.has_dynamic_batch)
    if inputs.sizes:
        _require_same_at_other_sizes(module, captured, inputs)
    outputs = read_outputs(captured, main_output)
    return CapturedGraph(captured, traced.has_dynamic_batch, inputs, outputs)


def _refuse_giants(program: torch.export.ExportedProgram) -> None:
    """Refuse a network that no memory holds before it is run, going by the traced sizes."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        sizes = [size if isinstance(size, int) else size.node.hint or 1 for size in value.shape]
        if math.prod(sizes) > _MAX_ELEMENTS:
            raise ModelError(
                f"'{node.name}' would be a tensor of {sizes}, which no memory holds; check the "
                "sizes and paddings of the network's layers, or give a smaller --input-size"
            )


def _export_without_caches(module: nn.Module, inputs: ModelInputs) -> Traced:
    if tensor_caches(module):
        try:
            with emptied_caches(module):
                return export_program(module, inputs)
        except ModelError:  # then it was no cache: the module cannot do without its content
            logging.getLogger(__name__).debug("a dictionary of tensors is needed", exc_info=True)
    return export_program(module, inputs)


def _attempt(
    module: nn.Module, inputs: ModelInputs, *, has_dynamic_batch: bool
) -> tuple[Traced | None, Exception | None]:
    # a failed try marks its inputs as dynamic: take new ones each time
    fresh = inputs.with_batch(inputs.batch)
    args, kwargs = bound(module, fresh.names, fresh.example)
    varying: Any = _varying_dimensions(fresh, has_dynamic_batch)
    try:
        program = torch.export.export(module, args, kwargs, dynamic_shapes=varying)
    except Exception as error:  # torch.export and user code raise many types
        logging.getLogger(__name__).debug("refused", exc_info=True)
        return None, error
    return Traced(program, has_dynamic_batch, fresh), None


def _varying_dimensions(
    inputs: ModelInputs, has_dynamic_batch: bool
) -> torch.export.ShapesCollection | None:
    """The dimensions of each example tensor that may change, with their ranges."""
    any_length = torch.export.Dim.DYNAMIC
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for spec, tensor in zip(inputs.specs, inputs.example, strict=True):
        found = {
            dim: any_length(min=size.smallest, max=size.largest)
            for dim, size in enumerate(spec.sizes, start=1)
            if isinstance(size, VaryingSize)
        }
        if has_dynamic_batch and tensor.dim():
            found[0] = any_length
        if found:
            shapes[tensor] = found
    return shapes if has_dynamic_batch or inputs.sizes else None


def _attempt_again(
    module: nn.Module, inputs: ModelInputs, error: Exception | None
) -> tuple[Traced | None, Exception | None]:
    """Try what may help: dataclasses made known to torch, a fixed batch, a batch of one.

    Raises:
        ModelError: The model does not even run on these inputs.
    """
    output, failure = _run(module, inputs)
    if failure is None:
        if register_dataclasses(output) and not inputs.is_batch_fixed:
            traced, error = _attempt(module, inputs, has_dynamic_batch=True)
            if traced is not None:
                return traced, None
        traced, error = _attempt(module, inputs, has_dynamic_batch=False)
        if traced is not None:
            return traced, None
    single = inputs.with_batch(1)
    output, failure_of_one = _run(module, single)
    if failure is not None and (failure_of_one is not None or inputs.is_batch_fixed):
        raise refused_inputs(module, inputs, failure) from failure
    if failure_of_one is not None or inputs.is_batch_fixed:
        return None, error
    register_dataclasses(output)
    traced, error_of_one = _attempt(module, single, has_dynamic_batch=False)
    return traced, error if failure is None else error_of_one


def _run(module: nn.Module, inputs: ModelInputs) -> tuple[object, Exception | None]:
    try:
        return inputs.call(module, inputs.example), None
    except Exception as failure:  # user code
        return None, failure


def _stiff_sizes(module: nn.Module, inputs: ModelInputs) -> list[str]:
    """Names of the sizes that cannot vary, each tried alone; all where none is found."""
    found = []
    for name in inputs.sizes:
        specs = tuple(spec.with_fixed_sizes(inputs.sizes, but=name) for spec in inputs.specs)
        alone = replace(inputs, specs=specs, sizes={name: inputs.sizes[name]})
        tries = (_attempt(module, alone, has_dynamic_batch=dynamic) for dynamic in (True, False))
        if all(traced is None for traced, _ in tries):
            found.append(name)
    return found or list(inputs.sizes)


def _take_flat_inputs(graph_module: fx.GraphModule, names: Sequence[str]) -> None:
    """Let the graph take one tensor per input and return plain nests (changes ``graph_module``)."""
    graph = graph_module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    assert len(placeholders) == len(names), [node.name for node in placeholders]
    assert isinstance(graph._codegen, _PyTreeCodeGen)
    info = graph._codegen.pytree_info
    assert info.out_spec is not None
    flat = pytree.tree_structure((tuple(range(len(names))), {}))
    # fx calls an argument 'input' something else, the user does not
    graph.set_codegen(
        _PyTreeCodeGen(_PyTreeInfo(list(names), flat, plain_output_spec(info.out_spec)))
    )
    graph_module.recompile()


def _require_same_at_other_sizes(
    module: nn.Module, captured: fx.GraphModule, inputs: ModelInputs
) -> None:
    """Run both at sizes that were not traced: a model may run other code there.

    Raises:
        ModelError: The graph differs from the model.
    """
    sizes = inputs.other_sizes()
    tensors = inputs.random(inputs.batch, torch.Generator().manual_seed(0), sizes)
    with torch.no_grad(), quiet_export():
        try:
            expected = output_tensors(inputs.call(module, tensors))
            found = output_tensors(captured(*tensors))
        except Exception as failure:  # user code
            raise refused_sizes(list(sizes), inputs, failure, sizes) from failure
    for ours, theirs in zip(found, expected, strict=True):
        if not _is_same(ours, theirs):
            raise refused_sizes(list(sizes), inputs, None, sizes)


def _is_same(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    scale = float(theirs.double().abs().max()) if theirs.numel() else 0.0
    return bool(
        torch.allclose(ours.double(), theirs.double(), rtol=0, atol=_SAME_LIMIT * max(scale, 1e-30))
    )


# ---- which whole numbers an input may hold: as many as the table has rows that it looks up -------


def with_value_ranges(module: fx.GraphModule, inputs: ModelInputs) -> ModelInputs:
    """Fill ``num_values`` in where nobody has said it and a captured graph tells."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    specs = tuple(
        replace(spec, num_values=_rows_looked_up(node))
        if spec.dtype.startswith("int") and spec.num_values is None
        else spec
        for spec, node in zip(inputs.specs, placeholders, strict=True)
    )
    return replace(inputs, specs=specs)


def _rows_looked_up(node: fx.Node) -> int | None:
    """Rows of the smallest table that this value looks up."""
    found: list[int] = []
    for user in node.users:
        if kind_of(user) == "table" and user.args[1] is node:
            table = user.args[0]
            value = table.meta.get("val") if isinstance(table, fx.Node) else None
            found += [int(value.shape[0])] if isinstance(value, Tensor) else []
        elif (is_view(user) or kind_of(user) == "cast") and user.args[0] is node:
            rows = _rows_looked_up(user)
            found += [rows] if rows is not None else []
    return min(found, default=None)


# ---- no calls that write to their input, no guards, no views of a fixed layout -------------------


aten = torch.ops.aten


def make_functional(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Change ``graph_module`` so that no call writes to its input, where that is known; return it.

    What cannot be said without a write is left alone: no rule knows it, so the unit graph freezes
    what it touches.
    """
    FunctionalWrites(graph_module).run()
    graph = graph_module.graph
    _fill_by_mask(graph)
    _allow_other_strides(graph)
    _drop_guards(graph_module)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _fill_by_mask(graph: fx.Graph) -> None:
    """Turn ``x[mask] = number`` into a call that acts on elements alone."""
    for node in list(graph.nodes):
        if node.op != "call_function" or op_name(node) != "index_put" or len(node.args) != 3:
            continue
        data, indices, value = node.args
        assert isinstance(indices, (list, tuple))
        masks = [index for index in indices if index is not None]
        if len(masks) != 1 or masks[0].meta["val"].dtype != torch.bool or indices[-1] is None:
            continue
        if value.meta["val"].numel() != 1 or value.meta["val"].dim() > 0:
            continue
        mask = masks[0]
        covered = len(indices) - 1 + mask.meta["val"].dim()
        for _ in range(data.meta["val"].dim() - covered):
            with graph.inserting_before(node):
                wider = graph.call_function(aten.unsqueeze.default, (mask, -1))
            wider.meta = {**node.meta, "val": mask.meta["val"].unsqueeze(-1)}
            mask = wider
        node.target, node.args = aten.masked_fill.Tensor, (data, mask, value)


def _allow_other_strides(graph: fx.Graph) -> None:
    """Turn ``view``, which depends on how a kernel lays out memory, into ``reshape``."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is aten.view.default:
            node.target = aten.reshape.default


def _drop_guards(graph_module: fx.GraphModule) -> None:
    """Remove shape guard calls: they would refuse the shrunk sizes (changes the graph)."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph_module.graph.erase_node(node)
