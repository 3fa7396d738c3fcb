"""One module of the user's as a piece of the proved graph.

For a module whose own forward has sizes built in (``reshape(B, N, C)`` with the ``C`` of its input
after heads have gone), there is no attribute to patch. Its part of the shrunk graph computes the
right thing: it takes the module's place, with the same parameters under the same names, so the
rest of the network keeps its classes. Image sizes are built into such a part.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fairdeploy.graph.call_facts import fetch_tensor, writes
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.graph.capture.train_mode import SwitchableGraph, hide_from_state_dict
from fairdeploy.surgery.own_class.module_calls import ModuleCall, NodeValue, is_inside

MAX_SHARE = 0.75
"""Of the network's calls: beyond that, the graph module itself is the honest answer."""


class NoPartError(Exception):
    """The module's part cannot be cut out of the graph; the text says why."""


def graph_part(
    network: nn.Module, call: ModuleCall, original: fx.GraphModule, shrunk: fx.GraphModule
) -> SwitchableGraph:
    """The part of ``shrunk`` that computes ``call``.

    Args:
        network: The copy of the user's network; tensors of its module at ``call.path`` are taken
            over.
        original: The graph before the removal, whose traced shapes tell how sizes depend on
            the batch.

    Raises:
        NoPartError: The module reads something that is not an argument of its.
    """
    calls = [node for node in shrunk.graph.nodes if node.op == "call_function"]
    inside = [node for node in calls if is_inside(node, call.path)]
    if not inside or len(inside) > MAX_SHARE * len(calls):
        raise NoPartError("it holds most of the network")
    return _Cutter(network, call, original, shrunk).cut()


def graph_parts(module: nn.Module) -> tuple[str, ...]:
    """Paths of the submodules of a network of the user's class that are pieces of a graph."""
    return tuple(
        name for name, child in module.named_modules() if name and isinstance(child, fx.GraphModule)
    )


class _Cutter:
    """Copies what the results need, back to the arguments."""

    def __init__(
        self,
        network: nn.Module,
        call: ModuleCall,
        original: fx.GraphModule,
        shrunk: fx.GraphModule,
    ) -> None:
        self._network = network
        self._module = network.get_submodule(call.path)
        self._own_names = {
            id(tensor): name
            for name, tensor in (
                *self._module.named_parameters(remove_duplicate=False),
                *self._module.named_buffers(remove_duplicate=False),
            )
        }
        self._call = call
        self._shrunk = shrunk
        self._nodes = {node.name: node for node in shrunk.graph.nodes}
        self._traced = {node.name: node.meta.get("val") for node in original.graph.nodes}
        self._graph = fx.Graph()
        self._copies: dict[str, fx.Node] = {}
        self._arguments: dict[str, fx.Node] = {}
        self._tensors: dict[str, Tensor] = {}

    def cut(self) -> SwitchableGraph:
        leaves, in_spec = pytree.tree_flatten(self._call.arguments)
        for index, leaf in enumerate(leaves):
            node = self._graph.placeholder(f"input_{index}")
            if isinstance(leaf, NodeValue):
                node.meta = dict(self._nodes[leaf.name].meta)
                self._copies[leaf.name] = self._arguments[leaf.name] = node
        results, out_spec = pytree.tree_flatten(self._call.result)
        wanted = self._needed([leaf.name for leaf in results if isinstance(leaf, NodeValue)])
        for node in self._shrunk.graph.nodes:
            if node.name in wanted and node.name not in self._copies:
                self._copies[node.name] = self._copied(node)
        self._graph.output(
            [self._copies[leaf.name] if isinstance(leaf, NodeValue) else leaf for leaf in results]
        )
        names = _argument_names(self._module, self._call.arguments)
        self._graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, out_spec)))
        with quiet_export():
            result = SwitchableGraph(self._tensors, self._graph)
        saved = self._module.state_dict(keep_vars=True)
        hide_from_state_dict(result, {n for n, _ in result.named_buffers() if n not in saved})
        # the module around it may read an attribute
        result.carry({n: v for n, v in vars(self._module).items() if not n.startswith("_")})
        return result.eval()

    def _needed(self, results: list[str]) -> set[str]:
        """Names of what the results depend on, of writes to memory, and of the own tensors."""
        stack = [self._nodes[name] for name in results]
        for node in self._shrunk.graph.nodes:
            # only training reads the counters of batches, and nobody the result of a write
            is_own_tensor = node.op == "get_attr" and self._own_name(node) is not None
            if is_own_tensor or (writes(node) and is_inside(node, self._call.path)):
                stack.append(node)
        needed: set[str] = set()
        while stack:
            node = stack.pop()
            if node.name in needed or node.name in self._copies:
                continue
            needed.add(node.name)
            if not self._is_size_of_argument(node):
                stack.extend(node.all_input_nodes)
        return needed

    def _copied(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            return self._tensor(node)
        size = self._size(node)
        if size is not None:
            return size
        if node.op != "call_function":
            raise NoPartError(f"it reads '{node.name}', which it is not given")
        is_size = _is_size(self._traced.get(node.name)) or node.name not in self._traced
        if not is_size and not is_inside(node, self._call.path):
            raise NoPartError(f"it reads '{node.name}', which is computed elsewhere")
        return self._graph.node_copy(node, lambda argument: self._copies[argument.name])

    def _own_name(self, node: fx.Node) -> str | None:
        """The tensor's name within the module, which may share it with another one."""
        tensor = fetch_tensor(self._network, str(node.target))
        return None if tensor is None else self._own_names.get(id(tensor))

    def _tensor(self, node: fx.Node) -> fx.Node:
        name, own = str(node.target), self._own_name(node)
        if own is not None:
            tensor = fetch_tensor(self._module, own)
        else:
            tensor = fetch_tensor(self._shrunk, name)
            own = name.replace(".", "_")
            if isinstance(tensor, nn.Parameter):
                tensor, own = self._folded_weight(name, tensor)
        assert tensor is not None
        self._tensors[own] = tensor
        return self._graph.create_node("get_attr", own, name=node.name)

    def _folded_weight(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, str]:
        """A copy of a parameter that the graph alone has, and its name in the part."""
        prefix = f"{self._call.path}."
        if fetch_tensor(self._network, name) is not None or not name.startswith(prefix):
            raise NoPartError(f"it reads '{name}', a parameter of another module")
        copied = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        return copied, name.removeprefix(prefix)

    def _is_size_of_argument(self, node: fx.Node) -> bool:
        return _is_size(self._traced.get(node.name)) and self._place(node) is not None

    def _size(self, node: fx.Node) -> fx.Node | None:
        """A size that depends on the batch, read from an argument."""
        place = self._place(node) if _is_size(self._traced.get(node.name)) else None
        if place is None:
            return None
        argument, dim, ratio = place
        size = self._graph.call_function(torch.ops.aten.sym_size.int, (argument, dim))
        if ratio == 1:
            return size
        return self._graph.call_function(operator.floordiv, (size, ratio))

    def _place(self, node: fx.Node) -> tuple[fx.Node, int, int] | None:
        """Argument, dimension and divisor that give the size; the smallest divisor there is."""
        expression = _expression(self._traced[node.name])
        found = []
        for name, argument in self._arguments.items():
            value = self._traced.get(name)
            for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                ratio = _expression(size) / expression if _is_size(size) else None
                if ratio is not None and ratio.is_Integer and ratio > 0:
                    found.append((int(ratio), dim, argument))
        if not found:
            return None
        ratio, dim, argument = min(found, key=lambda entry: entry[:2])
        return argument, dim, ratio


def _expression(size: Any) -> Any:
    return size.node.expr


def _is_size(value: Any) -> bool:
    return isinstance(value, torch.SymInt)


def _argument_names(module: nn.Module, arguments: Any) -> list[str]:
    """Parameter names of the module's forward for what it was called with."""
    args, kwargs = arguments
    names = [f"input_{index}" for index in range(len(args))]
    parameters = list(inspect.signature(module.forward).parameters.values())
    for index, parameter in enumerate(parameters[: len(args)]):
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
        names[index] = parameter.name
    return [*names, *kwargs]
