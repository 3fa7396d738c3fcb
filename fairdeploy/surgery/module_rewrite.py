"""The user's own class, smaller: sliced tensors, patched attributes, and a check that it agrees.

Attributes are found, not listed: every whole number that the graph rewrite changed in a module's
calls (``view`` sizes, split sizes, bounds) is looked for among that module's own attributes, so
``num_heads``, ``width`` or ``out_chs`` are patched without knowing their names. Leaf layers get
theirs from the shapes of their weights. What comes out is only believed if it computes the same.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.capture import quiet_export
from fairdeploy.graph.freezes import module_path
from fairdeploy.graph.functionalize import op_name
from fairdeploy.graph.propagation import argument
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.equivalence import PROOF_LIMIT, relative_error
from fairdeploy.surgery.layer_sizes import (
    old_lengths_kept,
    set_epsilons,
    set_norm_sizes,
    set_recurrent_sizes,
)

_CONVOLUTIONS = {f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)}
_NEVER_PATCHED = {
    "kernel_size", "stride", "padding", "dilation", "training", "output_padding", "inplace",
    "output_size",
}  # fmt: skip


def rebuild_own_class(
    module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule
) -> tuple[nn.Module | None, str]:
    """Copy ``module`` with the tensors of ``shrunk`` and attributes to match.

    Returns:
        The copy and an empty string; or None and the reason why it does not agree with ``shrunk``.
    """
    try:
        result = _with_tensors(module, shrunk)
        _patch_attributes(result, graph, shrunk)
        # after: the sizes of torch's own layers are known, not guessed from equal numbers
        _patch_leaves(result, shrunk)
        set_epsilons(result, graph.module, shrunk)
        error = _difference(result, graph, shrunk)
    except Exception as failure:  # user code may fail in any way with other sizes
        text = str(failure).strip().splitlines()
        return None, f"its forward fails with the new sizes: {text[0] if text else failure!r}"
    if error > PROOF_LIMIT:
        where = old_lengths_kept(graph.module, shrunk)
        cause = f", which divides by the old number of channels in {where}" if where else ""
        return None, f"its forward differs by {error:.1e} from the proved network{cause}"
    return result, ""


def _with_tensors(module: nn.Module, shrunk: fx.GraphModule) -> nn.Module:
    replacements = {
        **dict(shrunk.named_parameters(remove_duplicate=False)),
        **dict(shrunk.named_buffers(remove_duplicate=False)),
    }
    memo: dict[int, object] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        if name in replacements:
            new = replacements[name].detach().clone()
            memo[id(tensor)] = (
                nn.Parameter(new, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else new
            )
    with quiet_export():
        result = copy.deepcopy(module, memo)
    assert isinstance(result, nn.Module)
    return result


def _patch_leaves(module: nn.Module, shrunk: fx.GraphModule) -> None:
    """Set the size attributes of torch's own layers from their weights (changes ``module``)."""
    groups = _groups_of_convolutions(shrunk)
    for name, layer in module.named_modules():
        set_recurrent_sizes(layer)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = weight.shape
        elif isinstance(layer, nn.modules.conv._ConvTransposeNd):
            layer.groups = groups.get(name, layer.groups)
            layer.in_channels, layer.out_channels = weight.shape[0], weight.shape[1] * layer.groups
        elif isinstance(layer, nn.modules.conv._ConvNd):
            layer.groups = groups.get(name, layer.groups)
            layer.out_channels = weight.shape[0]
            layer.in_channels = weight.shape[1] * layer.groups
        elif isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.num_features = weight.shape[0]
        elif isinstance(layer, nn.Embedding):
            layer.num_embeddings, layer.embedding_dim = weight.shape
        else:
            set_norm_sizes(layer, weight)


def _groups_of_convolutions(shrunk: fx.GraphModule) -> dict[str, int]:
    """Module path of each convolution to its number of groups."""
    found = {}
    for node in shrunk.graph.nodes:
        if node.op == "call_function" and op_name(node) in _CONVOLUTIONS:
            weight, groups = node.args[1], argument(node, 6, "groups", 1)
            if isinstance(weight, fx.Node) and isinstance(groups, int):
                found[str(weight.target).removesuffix(".weight")] = groups
    return found


def _patch_attributes(module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule) -> None:
    """Replace numbers that the graph rewrite replaced (changes ``module``)."""
    for path, changes in changed_numbers(graph, shrunk).items():
        try:
            owner = module.get_submodule(path)
        except AttributeError:
            continue
        for name, value in list(vars(owner).items()):
            if name in _NEVER_PATCHED or name.startswith("_"):
                continue
            if isinstance(value, int) and not isinstance(value, bool) and value in changes:
                setattr(owner, name, changes[value])
            elif isinstance(value, (list, tuple)) and any(
                isinstance(item, int) and item in changes for item in value
            ):
                new = [changes.get(item, item) for item in value]
                setattr(owner, name, type(value)(new))


def changed_numbers(graph: UnitGraph, shrunk: fx.GraphModule) -> dict[str, dict[int, int]]:
    """By module path: old number to new, where one old number became one new number only."""
    found: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    for original in graph.module.graph.nodes:
        node = rewritten[original.name]
        if original.op != "call_function":
            continue
        for old, new in _changes(original, node):
            if old != new:
                found[module_path(original)][old].add(new)
    return {
        path: {old: next(iter(new)) for old, new in changes.items() if len(new) == 1}
        for path, changes in found.items()
    }


def _changes(original: fx.Node, node: fx.Node) -> list[tuple[int, int]]:
    """Pairs of old and new whole numbers in one call's arguments."""
    if original.target is node.target:
        return list(zip(_numbers(original.args), _numbers(node.args), strict=False))
    # a split into equal pieces has become a split into these sizes
    size, sizes = original.args[1], node.args[1]
    if op_name(original) == "split" and isinstance(size, int) and isinstance(sizes, (list, tuple)):
        return [(size, new) for new in sizes[: len(sizes) - 1] if isinstance(new, int)]
    return []


def _numbers(value: object) -> list[int]:
    """Whole numbers in nested arguments, with a placeholder for each node to keep the places."""
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return [-1] if isinstance(value, fx.Node) else []


def _difference(module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule) -> float:
    inputs = graph.inputs.random(graph.inputs.batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return relative_error(graph.inputs.call(module, inputs), shrunk(*inputs))
