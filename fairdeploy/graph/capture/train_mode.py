"""A captured graph whose ``train()`` and ``eval()`` mean what they mean for any other module.

A network is captured in eval mode, so dropout and batch norm have ``training=False`` built in.
``train()`` turns those constants over and lets batch norm count its batches; ``eval()`` restores
the graph node for node. Only constants that are off in eval mode are switched: a norm
that always uses its own statistics stays as it is. What the user's code leaves out in eval mode
(stochastic depth, dropout inside attention) is not in the graph and does not come back.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.node import map_aggregate

from fairdeploy.graph.operators import op_name

_FLAGS = ("training", "train")
_SWITCH = "fairdeploy_train_switch"
_ONLY_IN_TRAINING = "fairdeploy_only_in_training"


class SwitchableGraph(fx.GraphModule):
    """A graph module in either mode; copies and pickles keep class, mode and state dict."""

    def train(self, mode: bool = True) -> Self:
        """Change the graph to training or evaluation, like ``nn.Module.train``."""
        was_training = _is_in_train_form(self.graph)
        super().train(mode)
        if mode != was_training:
            if mode:
                _to_train_form(self.graph)
            else:
                _to_eval_form(self.graph)
            self.recompile()
        return self

    def carry(self, attributes: dict[str, Any]) -> None:
        """Change the module: it has these plain attributes, too, and so have its copies."""
        carried = self.__dict__.setdefault("_carried", {})
        for name, value in attributes.items():
            if name not in self.__dict__:
                carried[name] = self.__dict__[name] = value

    def __deepcopy__(self, memo: dict[int, Any]) -> SwitchableGraph:
        """A copy in the same mode, whose buffers are in the state dict or not as before."""
        result = super().__deepcopy__(memo)
        assert isinstance(result, SwitchableGraph)
        hide_from_state_dict(result, _hidden_buffers(self))
        result.carry(copy.deepcopy(self.__dict__.get("_carried", {}), memo))
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Nodes and tensors; torch's own way runs the code again and loses the class."""
        mode = self.training
        self.train(False)
        try:
            names = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
            tensors = {name: _fetch(self, name) for name in names}
            nodes = pickled_nodes(self.graph)
            carried = self.__dict__.get("_carried", {})
            return _rebuilt, (nodes, tensors, _hidden_buffers(self), carried, mode)
        finally:
            self.train(mode)


def switchable(module: fx.GraphModule) -> SwitchableGraph:
    """``module``, which is in eval mode, with working ``train()``; shares its graph and tensors."""
    result = SwitchableGraph(module, module.graph)
    result.meta = module.meta
    named = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    constants = {name for name, _ in result.named_buffers(remove_duplicate=False)} - named
    hide_from_state_dict(result, _hidden_buffers(module) | constants)
    for child in result.modules():
        child.training = False
    return result


def set_modes(module: nn.Module, modes: dict[nn.Module, bool]) -> None:
    """Change ``module`` so that each submodule has its mode again."""
    for child in module.modules():
        if isinstance(child, SwitchableGraph):
            child.train(modes[child])
        else:
            child.training = modes[child]


def _hidden_buffers(module: nn.Module) -> set[str]:
    """Names of buffers that the state dict leaves out."""
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules(remove_duplicate=False)
        for name in child._non_persistent_buffers_set
    }


def hide_from_state_dict(module: nn.Module, names: set[str]) -> None:
    """Make these buffers non-persistent (changes ``module``)."""
    for full_name in names:
        path, _, name = full_name.rpartition(".")
        owner = module.get_submodule(path)
        if name in owner._buffers:
            owner._non_persistent_buffers_set.add(name)


def _rebuilt(
    nodes: Any, tensors: dict[str, Any], hidden: set[str], carried: dict[str, Any], mode: bool
) -> SwitchableGraph:
    """The inverse of ``SwitchableGraph.__reduce__``."""
    result = SwitchableGraph(tensors, unpickled_graph(nodes))
    hide_from_state_dict(result, hidden)
    result.carry(carried)
    return result.train(mode)


def _fetch(module: nn.Module, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _is_in_train_form(graph: fx.Graph) -> bool:
    return any(_SWITCH in node.meta for node in graph.nodes)


def _to_train_form(graph: fx.Graph) -> None:
    counters = {
        str(node.target): node
        for node in graph.nodes
        if node.op == "get_attr" and str(node.target).endswith("num_batches_tracked")
    }
    for node in list(graph.nodes):
        place = _flag_that_is_off(node)
        if place is None:
            continue
        node.meta[_SWITCH] = place
        _set_flag(node, place, True)
        counter = counters.get(_counter_name(node))
        if counter is not None:
            with graph.inserting_before(node):
                count = graph.call_function(torch.ops.aten.add_.Tensor, (counter, 1))
            count.meta[_ONLY_IN_TRAINING] = True


def _to_eval_form(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if _ONLY_IN_TRAINING in node.meta:
            graph.erase_node(node)
        elif _SWITCH in node.meta:
            _set_flag(node, node.meta.pop(_SWITCH), False)


def _flag_that_is_off(node: fx.Node) -> tuple[int, str] | None:
    """Position and name of the call's training flag, if it has one and it is false."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    for index, argument in enumerate(node.target._schema.arguments):
        if argument.name in _FLAGS:
            given = node.args[index] if len(node.args) > index else node.kwargs.get(argument.name)
            return (index, argument.name) if given is False else None
    return None


def _set_flag(node: fx.Node, place: tuple[int, str], value: bool) -> None:
    index, name = place
    if len(node.args) > index:
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)


def _counter_name(node: fx.Node) -> str:
    """Name of the batch counter that lies beside a batch norm's running mean, or nothing."""
    mean = node.args[3] if op_name(node) == "batch_norm" else None
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        return ""
    return f"{str(mean.target).removesuffix('running_mean')}num_batches_tracked"


# ---- A graph as plain data that pickles: operators by name, nodes by name, no traced values ------


@dataclass(frozen=True, slots=True)
class _NodeName:
    name: str


@dataclass(frozen=True, slots=True)
class _Operator:
    namespace: str
    packet: str
    overload: str


@dataclass(frozen=True, slots=True)
class PickledNodes:
    """Rows of (kind, name, target, args, kwargs), and how inputs and outputs are nested."""

    rows: tuple[tuple[str, str, Any, Any, Any], ...]
    nesting: Any


def pickled_nodes(graph: fx.Graph) -> PickledNodes:
    """What ``unpickled_graph`` needs."""
    codegen = graph._codegen
    nesting = codegen.pytree_info if isinstance(codegen, _PyTreeCodeGen) else None
    return PickledNodes(
        tuple(
            (node.op, node.name, _named(node.target), _data(node.args), _data(node.kwargs))
            for node in graph.nodes
        ),
        nesting,
    )


def unpickled_graph(data: PickledNodes) -> fx.Graph:
    """The graph again; nodes keep their names."""
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def value(item: Any) -> Any:
        if isinstance(item, _NodeName):
            return nodes[item.name]
        return _resolved(item)

    for op, name, target, args, kwargs in data.rows:
        nodes[name] = graph.create_node(
            op, _resolved(target), map_aggregate(args, value), map_aggregate(kwargs, value), name
        )
    if data.nesting is not None:
        graph.set_codegen(_PyTreeCodeGen(data.nesting))
    return graph


def _data(arguments: Any) -> Any:
    def data(item: Any) -> Any:
        return _NodeName(item.name) if isinstance(item, fx.Node) else _named(item)

    return map_aggregate(arguments, data)


def _named(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        return _Operator(target.namespace, name, target._overloadname)
    return target


def _resolved(target: Any) -> Any:
    if isinstance(target, _Operator):
        packet = getattr(getattr(torch.ops, target.namespace), target.packet)
        return getattr(packet, target.overload)
    return target
