"""The user's own class, smaller: sliced tensors, patched attributes, and a check that it agrees.

Attributes are found, not listed: every whole number that the graph rewrite changed in a module's
calls is looked for among that module's own attributes, so ``num_heads``, ``width`` or ``out_chs``
are patched without knowing their names. Leaf layers get theirs from the shapes of their weights.
If the network does not agree then, ``module_repair`` looks module by module. What comes out is only
believed if it computes the same as the proved graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import argument, fetch_tensor, module_path
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.graph.capture.kept_state import tensor_caches, unchanged
from fairdeploy.graph.operators import op_name, operator_of
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.own_class.attribute_slots import assign, slots
from fairdeploy.surgery.own_class.module_repair import repair_modules
from fairdeploy.surgery.own_class.number_changes import NumberChanges, changed_constants
from fairdeploy.surgery.own_class.own_class_check import disagreement, first_line


def rebuild_own_class(
    module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule
) -> tuple[nn.Module | None, str]:
    """Copy ``module`` with the tensors of ``shrunk`` and attributes to match.

    Submodules whose own forward has sizes built in become pieces of ``shrunk``;
    ``graph_part.graph_parts`` names them.

    Returns:
        The copy in eval mode and an empty string; or None and the reason why there is none.
    """
    with unchanged(module):
        result, problem = _rebuilt(module, graph, shrunk)
    return (None, problem) if problem else (result, "")


def _rebuilt(module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule) -> tuple[nn.Module, str]:
    """The copy and what is wrong with it."""
    try:
        result = _with_tensors(module, graph, shrunk)
        changes = changed_constants(graph, shrunk)
        for path, found in changes.items():
            owner = _submodule(result, path)
            if owner is not None:
                _assign_first_guesses(owner, found)
        # after: the sizes of torch's own layers are known, not guessed from equal numbers
        set_layer_sizes(result, shrunk)
        set_epsilons(result, graph.module, shrunk)
    except Exception as failure:  # user code may fail in any way when it is copied or set
        return module, f"it cannot be copied with the new sizes: {first_line(failure)}"
    problem = disagreement(result, graph, shrunk)
    if problem:
        try:
            repair_modules(module, result, graph, shrunk, changes)
        except Exception as failure:  # the same: the first problem is the one to tell
            return result, f"{problem}; looking for the module: {first_line(failure)}"
        problem = disagreement(result, graph, shrunk)
    return result, problem


def _assign_first_guesses(owner: nn.Module, found: NumberChanges) -> None:
    """Put what the constants became where it can be only one number (changes ``owner``)."""
    for slot in slots(owner):
        guess = found.plain(slot.value)
        if guess != slot.value:
            assign(owner, slot.path, guess)


def _with_tensors(module: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule) -> nn.Module:
    """A copy of ``module`` with the shrunk tensors in the place of those that the graph shares."""
    by_storage: dict[int, Tensor] = {}
    for name in graph.tensor_units:
        original, new = fetch_tensor(graph.module, name), fetch_tensor(shrunk, name)
        if original is not None and new is not None and original.numel():
            by_storage[original.data_ptr()] = new
    memo: dict[int, object] = {}
    computed: dict[int, object] = {}
    named = {
        **dict(shrunk.named_parameters(remove_duplicate=False)),
        **dict(shrunk.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in _tensors(module):
        new = named.get(name, by_storage.get(tensor.data_ptr()) if tensor.numel() else None)
        if id(tensor) in memo:
            continue
        if new is None:
            if tensor.grad_fn is not None:  # kept of a run with gradients: it cannot be copied so
                computed[id(tensor)] = tensor.detach().clone()
            continue
        data = new.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = (
            nn.Parameter(data, requires_grad=tensor.requires_grad) if is_parameter else data
        )
    replaced = {id(new) for new in memo.values()}
    with quiet_export():
        result = copy.deepcopy(module, memo | computed)
    assert isinstance(result, nn.Module)
    for _, cache in tensor_caches(result):
        for key in [key for key, tensor in cache.items() if id(tensor) not in replaced]:
            del cache[key]  # computed from the old sizes; the forward fills it again
    return result


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, and tensors that attributes hold, also nested."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, (Tensor, list, tuple, dict)):
                yield from (("", tensor) for tensor in _nested(value))


def _nested(value: object) -> Iterator[Tensor]:
    if isinstance(value, nn.Parameter):
        return
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _nested(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _nested(item)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


# ---- the sizes that torch's own layers remember, from the shapes of their tensors ----------------


def set_layer_sizes(module: nn.Module, shrunk: fx.GraphModule) -> None:
    """Set the size attributes of layers, and of their subclasses (changes ``module``)."""
    groups = _groups_of_convolutions(shrunk)
    norm_groups = _groups_of_group_norms(shrunk)
    for name, layer in module.named_modules():
        set_recurrent_sizes(layer)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = weight.shape
        elif isinstance(layer, nn.Bilinear):
            layer.out_features, layer.in1_features, layer.in2_features = weight.shape
        elif isinstance(layer, nn.modules.conv._ConvNd):
            layer.groups = groups.get(name, layer.groups)
            first, second = weight.shape[:2]
            if layer.transposed:
                layer.in_channels, layer.out_channels = first, second * layer.groups
            else:
                layer.in_channels, layer.out_channels = second * layer.groups, first
        elif isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.num_features = weight.shape[0]
        elif isinstance(layer, nn.Embedding):
            layer.num_embeddings, layer.embedding_dim = weight.shape
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = weight.shape[0]
        else:
            set_norm_sizes(layer, weight)
            if isinstance(layer, nn.GroupNorm):
                layer.num_groups = norm_groups.get(name, layer.num_groups)


def _groups_of_convolutions(shrunk: fx.GraphModule) -> dict[str, int]:
    """Module path of each convolution to its number of groups."""
    found = {}
    for node in shrunk.graph.nodes:
        index = operator_of(node).groups
        if index is not None:
            groups = argument(node, index, "groups", 1)
            if isinstance(node.args[1], fx.Node) and isinstance(groups, int):
                found[str(node.args[1].target).removesuffix(".weight")] = groups
    return found


def _groups_of_group_norms(shrunk: fx.GraphModule) -> dict[str, int]:
    found = {}
    for node in shrunk.graph.nodes:
        if node.op == "call_function" and op_name(node) == "group_norm":
            weight = argument(node, 2, "weight")
            if isinstance(weight, fx.Node) and isinstance(node.args[1], int):
                found[str(weight.target).removesuffix(".weight")] = node.args[1]
    return found


def set_recurrent_sizes(layer: nn.Module) -> None:
    """Let a recurrent layer know the sizes of its weights (changes ``layer``)."""
    if isinstance(layer, nn.RNNBase):
        shape = layer.get_parameter("weight_ih_l0").shape
        layer.hidden_size, layer.input_size = shape[0] // _num_gates(layer), shape[1]
        if layer.proj_size > 0:
            layer.proj_size = layer.get_parameter("weight_hr_l0").shape[0]
    elif isinstance(layer, nn.RNNCellBase):
        layer.hidden_size, layer.input_size = layer.weight_hh.shape[1], layer.weight_ih.shape[1]


def set_norm_sizes(layer: nn.Module, weight: Tensor) -> None:
    """Let a group or layer norm know the length of its weight (changes ``layer``)."""
    if isinstance(layer, nn.GroupNorm):
        layer.num_channels = weight.shape[0]
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = tuple(weight.shape)


def set_epsilons(module: nn.Module, original: fx.GraphModule, shrunk: fx.GraphModule) -> None:
    """Give norms the epsilons of the shrunk network (changes ``module``)."""
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    owners: dict[str, Any] = dict(module.named_modules())
    for before in original.graph.nodes:
        after = rewritten.get(before.name)
        is_same = after is not None and after.target is before.target
        if before.op != "call_function" or after is None or not is_same:
            continue
        old, new = _epsilon(before), _epsilon(after)
        owner = owners.get(module_path(before))
        if old == new or owner is None:
            continue
        for name, value in list(vars(owner).items()):
            if (name == "eps" and value is None) or (isinstance(value, float) and value == old):
                setattr(owner, name, new)


def _epsilon(node: fx.Node) -> object:
    if op_name(node) == "rms_norm":
        return argument(node, 3, "eps")
    return node.args[1] if op_name(node) == "add" and isinstance(node.args[1], float) else None


def _num_gates(layer: nn.RNNBase) -> int:
    return {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
