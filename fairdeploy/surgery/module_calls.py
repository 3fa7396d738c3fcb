"""Which values of the captured graph each of the user's modules takes and gives.

The network runs once with hooks, the graph once node by node; a tensor that a module was called
with is recognised in the graph by its content. With that, one module of a shrunk copy can be run
alone on what it ought to get, and compared with what it ought to give.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairdeploy.graph.freezes import module_path

Fingerprint = tuple[tuple[int, ...], str, bytes]
Choose = Callable[[Fingerprint], str | None]


@dataclass(frozen=True, slots=True)
class NodeValue:
    """In the place of a tensor: the node of the graph that computes it."""

    name: str


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """The first call of one module; tensors are ``NodeValue``, None if the graph lacks one."""

    path: str
    arguments: Any
    """``(args, kwargs)``."""
    result: Any

    @property
    def node_names(self) -> list[str]:
        """Nodes that this call takes or gives."""
        leaves = pytree.tree_leaves((self.arguments, self.result))
        return [leaf.name for leaf in leaves if isinstance(leaf, NodeValue)]


def is_inside(node: fx.Node, path: str) -> bool:
    """Whether the module at ``path``, or one within it, issued the call."""
    issuer = module_path(node)
    return not path or issuer == path or issuer.startswith(f"{path}.")


def record_calls(
    module: nn.Module, graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> list[ModuleCall]:
    """First calls of all modules in the order in which they end: inner ones before outer ones."""
    raw = _raw_calls(module, inputs)
    prints = _FingerprintsOfNodes(graph_module)
    with torch.no_grad():
        prints.run(*inputs)
    calls = []
    for path, arguments, result in raw:
        first, last = prints.stretch(path)
        taken = _named(arguments, functools.partial(prints.latest, before=first))
        given = _named(result, functools.partial(prints.latest, before=last + 1))
        if taken is not None and given is not None:
            calls.append(ModuleCall(path, taken, given))
    return calls


def run_values(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], names: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Run the graph; the values of the named nodes, and the shape of every tensor in it."""
    recorder = _Recorder(graph_module, set(names))
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.values, recorder.shapes


def filled(nest: Any, values: Mapping[str, Tensor]) -> Any:
    """A recorded nest with tensors; copies, because a forward may write to its inputs."""
    return pytree.tree_map(
        lambda leaf: values[leaf.name].clone() if isinstance(leaf, NodeValue) else leaf, nest
    )


def _raw_calls(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[str, Any, Any]]:
    calls: list[tuple[str, Any, Any]] = []
    seen: set[str] = set()
    entered: dict[str, Any] = {}
    hooks = []

    def watch(path: str, layer: nn.Module) -> None:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            entered[path] = _printed((args, kwargs))

        def after(_: nn.Module, args: Any, result: Any) -> None:
            if path not in seen:
                seen.add(path)
                calls.append((path, entered[path], _printed(result)))

        hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(layer.register_forward_hook(after))

    try:
        for path, layer in module.named_modules():
            watch(path, layer)
        with torch.no_grad():
            module(*(tensor.clone() for tensor in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _printed(nest: Any) -> Any:
    return pytree.tree_map(lambda leaf: _Print(leaf) if isinstance(leaf, Tensor) else leaf, nest)


class _Print:
    """The fingerprint of a tensor at the moment it was seen: it may be written to later."""

    def __init__(self, tensor: Tensor) -> None:
        self.key = fingerprint(tensor)


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Shape, type and a hash of the content."""
    content = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.blake2b(content.view(torch.uint8).numpy().data, digest_size=16).digest()
    return tuple(tensor.shape), str(tensor.dtype), digest


def _named(nest: Any, choose: Choose) -> Any:
    """The nest with node values; None if a tensor is not in the graph."""
    leaves, spec = pytree.tree_flatten(nest)
    new = []
    for leaf in leaves:
        if not isinstance(leaf, _Print):
            new.append(leaf)
            continue
        name = choose(leaf.key)
        if name is None:
            return None
        new.append(NodeValue(name))
    return pytree.tree_unflatten(new, spec)


class _Recorder(fx.Interpreter):
    """Keeps chosen values and all shapes."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self._names = names
        self.values: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep what is asked for."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
            if n.name in self._names:
                self.values[n.name] = value.detach()
        return value


class _FingerprintsOfNodes(fx.Interpreter):
    """Fingerprints of all tensors, and where each module's calls begin and end."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._nodes: dict[Fingerprint, list[tuple[int, str]]] = defaultdict(list)
        self._position = 0
        self._stretches: dict[str, tuple[int, int]] = {}
        for position, node in enumerate(module.graph.nodes):
            issuer = module_path(node) if node.op == "call_function" else ""
            while issuer:
                first, _ = self._stretches.get(issuer, (position, position))
                self._stretches[issuer] = (first, position)
                issuer = issuer.rpartition(".")[0]
        self._end = len(module.graph.nodes)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and take its fingerprint."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self._nodes[fingerprint(value)].append((self._position, n.name))
        self._position += 1
        return value

    def stretch(self, path: str) -> tuple[int, int]:
        """Positions of the first and last node that the module issued."""
        return self._stretches.get(path, (self._end, self._end))

    def latest(self, found: Fingerprint, before: int) -> str | None:
        """The last node in front of a position that has this content."""
        names = [name for position, name in self._nodes.get(found, ()) if position < before]
        return names[-1] if names else None
