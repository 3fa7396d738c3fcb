"""All tensors that a network returns, however they are nested: their names, and the main one."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.graph.capture.model_inputs import ModelInputs
from fairdeploy.tasks import task_of
from fairdeploy.tasks.base import Task

_TWO_SIZES = (2, 3)
_PLAIN = (dict, OrderedDict, list, tuple)


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """The tensors that a network returns, in the order in which a nest of them flattens."""

    names: tuple[str, ...]
    """Keys and places on the way to each; ``output`` for a network that returns one tensor."""
    main: int
    """Place of the one that is scored and tested."""
    task: Task
    """What that one is for."""
    batch_dims: tuple[int, ...] = ()
    """Where the images of a batch lie in each; 0 where they do not."""

    @property
    def batch_dim(self) -> int:
        """Where they lie in the main one: in dimension 1 where time comes first."""
        return self.batch_dims[self.main] if self.batch_dims else 0

    def main_tensor(self, output: object) -> Tensor:
        """The tensor that is scored and tested, images first."""
        return output_tensors(output)[self.main].movedim(self.batch_dim, 0)


def output_tensors(output: object) -> list[Tensor]:
    """Every tensor in a nest, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def read_outputs(module: fx.GraphModule, wanted: str | None) -> ModelOutputs:
    """Name the tensors that a captured graph returns, and choose the main one.

    Args:
        module: Its nodes carry example values.
        wanted: Name of the main output; None: the first of floating point.

    Raises:
        UsageError: There is no output of that name, or it holds no scores.
        ModelError: No output can be scored.
    """
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    leaves = pytree.tree_leaves(output.args[0], is_leaf=lambda item: isinstance(item, fx.Node))
    values = [leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
    paths = _paths(module, len(values))
    found = [(path, value) for path, value in zip(paths, values, strict=True)
             if isinstance(value, Tensor)]  # fmt: skip
    names = _unique([_name(path) for path, _ in found])
    scored = [
        place
        for place, (_, value) in enumerate(found)
        if value.is_floating_point() and value.dim() > 0
    ]
    if not scored:
        raise ModelError("the model returns no tensor of floating-point scores; give one that does")
    choices = [names[place] for place in scored]
    if wanted is not None and wanted not in choices:
        raise UsageError(
            f"the model has no floating-point output '{wanted}'; use one of {', '.join(choices)}"
        )
    main = scored[0] if wanted is None else names.index(wanted)
    batch_dims = _batch_dims(module, [value for _, value in found])
    shape = list(found[main][1].shape)
    shape.insert(0, shape.pop(batch_dims[main]))
    return ModelOutputs(names, main, task_of(tuple(shape)), batch_dims)


def _batch_dims(module: fx.GraphModule, values: Sequence[Tensor]) -> tuple[int, ...]:
    """The dimension that is as long as the batch of the inputs, at any length of that.

    Where the batch is fixed, it is the first of its length.
    """
    given = (node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder")
    sizes = [_symbol(v.shape[0]) for v in given if isinstance(v, Tensor) and v.dim()]
    batches = {size for size in sizes if not isinstance(size, int)} or set(sizes[:1])

    def place(value: Tensor) -> int:
        found = (dim for dim, size in enumerate(value.shape) if _symbol(size) in batches)
        return next(found, 0)

    return tuple(place(value) for value in values)


def _symbol(size: object) -> object:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def find_batch_dims(network: Callable[..., object], inputs: ModelInputs) -> tuple[int, ...]:
    """Where the images lie in each output of a network, found with two batch sizes.

    Empty where it takes but one.
    """
    if inputs.is_batch_fixed:
        return ()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        few, more = (
            output_tensors(network(*inputs.random(count, generator))) for count in _TWO_SIZES
        )
    found = []
    for one, other in zip(few, more, strict=True):
        sizes = list(zip(one.shape, other.shape, strict=False))
        found.append(sizes.index(_TWO_SIZES) if _TWO_SIZES in sizes else 0)
    return tuple(found)


def plain_output_spec(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """The same nest in dictionaries, lists and tuples, which load without the user's classes."""
    count = spec.num_leaves
    plain = _plain(pytree.tree_unflatten(range(count), spec))
    leaves, result = pytree.tree_flatten(plain)
    return result if leaves == list(range(count)) else spec


def register_dataclasses(output: object) -> bool:
    """Let torch.export take apart the dataclasses in an output; whether there was a new one."""
    if output is None or isinstance(output, Tensor):
        return False
    if is_dataclass(output) and not isinstance(output, type):
        is_new = type(output) not in pytree.SUPPORTED_NODES
        if is_new:
            torch.export.register_dataclass(type(output))
        children: Sequence[object] = [getattr(output, name) for name in vars(output)]
        return any([is_new, *(register_dataclasses(child) for child in children)])
    if isinstance(output, dict):
        return any([register_dataclasses(child) for child in output.values()])
    if isinstance(output, (list, tuple)):
        return any([register_dataclasses(child) for child in output])
    return False


def _plain(tree: Any) -> Any:
    if type(tree) in (list, tuple):
        return type(tree)(_plain(child) for child in tree)
    if type(tree) in (dict, OrderedDict):
        return type(tree)((key, _plain(child)) for key, child in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {name: _plain(child) for name, child in zip(tree._fields, tree, strict=True)}
    node = pytree.SUPPORTED_NODES.get(type(tree))
    if node is None:
        return tree
    if node.flatten_with_keys_fn is None:
        return [_plain(child) for child in node.flatten_fn(tree)[0]]
    pairs, _ = node.flatten_with_keys_fn(tree)
    return {_part(key): _plain(child) for key, child in pairs}


def _paths(module: fx.GraphModule, count: int) -> list[tuple[Any, ...]]:
    """Keys on the way to each leaf of the output."""
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is None or info.out_spec is None:
        return [(pytree.SequenceKey(place),) for place in range(count)]
    tree = pytree.tree_unflatten(range(count), info.out_spec)
    return [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def _part(key: object) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _name(path: tuple[Any, ...]) -> str:
    parts = [_part(key) for key in path]
    if not parts or parts[0].isdecimal():
        parts = ["output", *parts]
    return re.sub(r"\W+", "_", "_".join(parts))


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """A network that returns ``(x,)`` or ``[x]`` has one output too."""
    if len(names) == 1 and names[0] == "output_0":
        return ("output",)
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return tuple(found)
