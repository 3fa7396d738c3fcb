"""Which values of the captured graph each of the user's modules takes and gives.

The network runs once with hooks, the graph once node by node; a tensor that a module was called
with is recognised in the graph by its content. With that, one module of a shrunk copy can be run
alone on what it ought to get, and compared with what it ought to give.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairdeploy.graph.unit_graph import UnitGraph

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


def issuers(node: fx.Node) -> list[str]:
    """Paths of the modules that the call was issued in, outermost first; the root is empty.

    A shared module has one name wherever it is called, so paths need not be nested.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path).partition("@")[0] for path, _ in stack.values()]


def is_inside(node: fx.Node, path: str) -> bool:
    """Whether the module at ``path``, or one within it, issued the call."""
    return not path or any(
        issuer == path or issuer.startswith(f"{path}.") for issuer in issuers(node)
    )


def record_calls(
    module: nn.Module, graph: UnitGraph, inputs: tuple[Tensor, ...]
) -> list[ModuleCall]:
    """First calls of modules in the order in which they end: inner ones before outer ones.

    Torch's own layers are left out: they have no forward that other sizes could break.
    """
    raw = _raw_calls(module, graph, inputs)
    leaves = pytree.tree_leaves([(arguments, result) for _, arguments, result in raw])
    shapes = {leaf.key[0] for leaf in leaves if isinstance(leaf, _Print)}
    prints = _FingerprintsOfNodes(graph.module, shapes)
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


def _raw_calls(
    module: nn.Module, graph: UnitGraph, inputs: tuple[Tensor, ...]
) -> list[tuple[str, Any, Any]]:
    calls: list[tuple[str, Any, Any]] = []
    seen: set[str] = set()
    entered: dict[str, Any] = {}
    hooks = []
    # torch's fused attention rounds differently from what is traced
    is_fused = torch.backends.mha.get_fastpath_enabled()

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
        torch.backends.mha.set_fastpath_enabled(False)
        for path, layer in module.named_modules():
            if not is_plain_layer(layer):
                watch(path, layer)
        with torch.no_grad():
            graph.inputs.call(module, [tensor.clone() for tensor in inputs])
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
        for hook in hooks:
            hook.remove()
    return calls


def is_plain_layer(layer: nn.Module) -> bool:
    """Whether it is a layer of torch's without layers inside."""
    is_torch_s = type(layer).__module__.startswith("torch.nn.modules")
    has_children = next(layer.children(), None) is not None
    return is_torch_s and not has_children and not isinstance(layer, nn.MultiheadAttention)


def _printed(nest: Any) -> Any:
    return pytree.tree_map(lambda leaf: _Print(leaf) if isinstance(leaf, Tensor) else leaf, nest)


class _Print:
    """The fingerprint of a tensor at the moment it was seen: it may be written to later."""

    def __init__(self, tensor: Tensor) -> None:
        self.key = fingerprint(tensor)


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Shape, type, the sum of all elements and some of them; hashing all would take longer."""
    content = tensor.detach().contiguous().reshape(-1)
    if content.is_complex():
        content = torch.view_as_real(content).reshape(-1)
    is_real = content.is_floating_point()
    total = content.sum(dtype=torch.float64 if is_real else torch.int64).cpu().numpy()
    some = content[:: max(len(content) // 512, 1)].cpu().contiguous()
    return (
        tuple(tensor.shape),
        str(tensor.dtype),
        total.tobytes() + some.view(torch.uint8).numpy().tobytes(),
    )


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


def _with_parents(paths: list[str]) -> set[str]:
    """The paths and all that lead to them; containers that nobody calls issue nothing."""
    found: set[str] = set()
    for path in paths:
        parts = path.split(".")
        found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return found - {""}


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
    """Fingerprints of all tensors of some shapes, and where each module's calls begin and end."""

    def __init__(self, module: fx.GraphModule, shapes: set[tuple[int, ...]]) -> None:
        super().__init__(module)
        self._shapes = shapes
        self._nodes: dict[Fingerprint, list[tuple[int, str]]] = defaultdict(list)
        self._position = 0
        self._stretches: dict[str, tuple[int, int]] = {}
        for position, node in enumerate(module.graph.nodes):
            for path in _with_parents(issuers(node)) if node.op == "call_function" else ():
                first, _ = self._stretches.get(path, (position, position))
                self._stretches[path] = (first, position)
        self._end = len(module.graph.nodes)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and take its fingerprint."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and tuple(value.shape) in self._shapes:
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
