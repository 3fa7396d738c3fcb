"""Run a network a stretch at a time over all images, holding only what is still needed.

Values that live from one stretch to the next stay in memory up to a limit and are written to
temporary files beyond it, so that the peak does not depend on the number of images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

DEFAULT_MEMORY_BYTES = 2_500_000_000

Inputs = tuple[Tensor, ...]
"""One tensor per input of the network."""
Chunks = tuple[Inputs, ...]
ValueKey = tuple[str, str, int]
"""Network, node name, chunk."""


def all_inputs(images: Tensor | Inputs) -> Inputs:
    """Images alone are the only input of their network."""
    return (images,) if isinstance(images, Tensor) else images


def chunks_of_images(module: fx.GraphModule, images: Tensor | Inputs, max_images: int) -> Chunks:
    """Images in chunks that the network takes: a network of fixed batch gets just that batch.

    Its last images, too few for a batch, are left out; so they are if there are no more.
    """
    fixed = _fixed_batch(module)
    split = (torch.split(tensor, fixed or max_images) for tensor in all_inputs(images))
    chunks: Chunks = tuple(zip(*split, strict=True))
    return tuple(c for c in chunks if (len(c[0]) == fixed if fixed else len(c[0]) > 0))


def _fixed_batch(module: fx.GraphModule) -> int | None:
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    example = first.meta.get("val")
    batch = example.shape[0] if isinstance(example, Tensor) else None
    return batch if isinstance(batch, int) else None


class ValueStore:
    """Values of nodes by chunk of images; overflows into temporary files."""

    def __init__(self, max_memory_bytes: int) -> None:
        """Start empty; ``max_memory_bytes`` is what may stay in memory."""
        self._max_bytes = max_memory_bytes
        self._bytes = 0
        self._values: dict[ValueKey, Any] = {}
        self._sizes: dict[ValueKey, int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fairdeploy-")
        self._num_files = 0

    def __enter__(self) -> ValueStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._values.clear()
        self._folder.cleanup()

    def put(self, key: ValueKey, value: Any) -> None:
        """Keep a value (any nest of tensors and numbers) until ``drop``."""
        leaves, spec = pytree.tree_flatten(value)
        kept = [self._keep(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        size = sum(leaf.nbytes for leaf in kept if isinstance(leaf, Tensor))
        self._bytes += size
        self._sizes[key] = size
        self._values[key] = (kept, spec)

    def get(self, key: ValueKey) -> Any:
        """The value as it was put."""
        leaves, spec = self._values[key]
        read = [leaf.read() if isinstance(leaf, _SpilledTensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(read, spec)

    def drop(self, key: ValueKey) -> None:
        """Forget a value; unknown keys are ignored."""
        if key not in self._values:
            return
        for leaf in self._values.pop(key)[0]:
            if isinstance(leaf, _SpilledTensor):
                leaf.path.unlink()
        self._bytes -= self._sizes.pop(key)

    def _keep(self, tensor: Tensor) -> Any:
        is_plain = tensor.dtype in (torch.float32, torch.float64, torch.int64)
        if is_plain and self._bytes + tensor.nbytes > self._max_bytes:
            self._num_files += 1
            return _SpilledTensor(Path(self._folder.name) / str(self._num_files), tensor)
        # A small view must not keep a large tensor alive.
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


class _SpilledTensor:
    """A tensor in a file. Read back whole: mapped pages would count as memory in use."""

    def __init__(self, path: Path, tensor: Tensor) -> None:
        self.path = path
        self._shape = tuple(tensor.shape)
        array = tensor.detach().contiguous().numpy()
        self._dtype = array.dtype
        array.tofile(path)

    def read(self) -> Tensor:
        array = np.fromfile(self.path, dtype=self._dtype).reshape(self._shape)
        return torch.from_numpy(array)


class NetworkSweep:
    """One network on its way through its nodes, for all chunks of images."""

    def __init__(
        self,
        name: str,
        module: fx.GraphModule,
        chunks: Chunks,
        store: ValueStore,
        pinned_until: Mapping[str, int],
    ) -> None:
        """Stand before the first node.

        Args:
            name: Tells the two networks apart in ``store``.
            module: In eval mode.
            chunks: The inputs, in the chunks in which they run.
            store: Shared between networks.
            pinned_until: Node name to the last stretch number that still reads its value.
        """
        self._name = name
        self._module = module
        self._chunks = chunks
        self._store = store
        self._pinned_until = pinned_until
        self._nodes = [n for n in module.graph.nodes if n.op != "output"]
        self._index = {node.name: i for i, node in enumerate(self._nodes)}
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self._input_place = {node: place for place, node in enumerate(placeholders)}
        self._last_use = {
            node: max((self._index[u.name] for u in node.users if u.op != "output"), default=-1)
            for node in self._nodes
        }
        self._position = 0

    def position_of(self, node_name: str) -> int:
        """Place of a node in the order of execution."""
        return self._index[node_name]

    def advance(self, end: int, stretch: int) -> None:
        """Run all chunks up to node ``end`` (exclusive), then drop what nobody will read.

        Args:
            end: Nothing happens if the sweep is past it already.
            stretch: Number of this stretch; values pinned until it or later are kept.
        """
        if end > self._position:
            for chunk in range(len(self._chunks)):
                self._run_chunk(chunk, end, stretch)
            self._position = end
        for node in self._nodes[: self._position]:
            if not self._is_live(node, self._position, stretch):
                for chunk in range(len(self._chunks)):
                    self._store.drop((self._name, node.name, chunk))

    def value(self, node_name: str, chunk: int) -> Any:
        """The value of a live node."""
        return self._store.get((self._name, node_name, chunk))

    def _is_live(self, node: fx.Node, position: int, stretch: int) -> bool:
        return self._last_use[node] >= position or self._pinned_until.get(node.name, -1) >= stretch

    def _run_chunk(self, chunk: int, end: int, stretch: int) -> None:
        values: dict[fx.Node, Any] = {}

        def load(node: fx.Node) -> Any:
            if node.op == "get_attr":
                return attribute(self._module, str(node.target))
            if node not in values:
                values[node] = self._store.get((self._name, node.name, chunk))
            return values[node]

        for index in range(self._position, end):
            node = self._nodes[index]
            if node.op == "get_attr":
                continue
            if node.op == "placeholder":
                result: Any = self._chunks[chunk][self._input_place[node]]
            else:
                assert callable(node.target), node.format_node()
                result = node.target(*map_arg(node.args, load), **map_arg(node.kwargs, load))
            values[node] = result
            if self._is_live(node, end, stretch):
                self._store.put((self._name, node.name, chunk), result)
            for used in (*node.all_input_nodes, node):
                if self._last_use[used] <= index:
                    values.pop(used, None)


def attribute(module: fx.GraphModule, dotted_name: str) -> Any:
    """Parameter, buffer or submodule by its dotted name."""
    value: Any = module
    for part in dotted_name.split("."):
        value = getattr(value, part)
    return value
