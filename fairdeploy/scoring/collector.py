"""One forward and backward pass over the calibration images, from which all scores follow.

What the outputs of units say is collected by readers on the way, as many as are asked for; the
backward pass is left out where nothing needs a gradient.
The pass runs the captured graph on detached copies of its parameters that share their storage, so
the user's network keeps its mode, statistics, gradients, ``requires_grad`` and hooks untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import Argument, Target

from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet
from fairdeploy.scoring.activations import PointReader
from fairdeploy.scoring.folding import FoldedLayer
from fairdeploy.scoring.reconstruction import GradientProducts
from fairdeploy.tasks.base import pooled

_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "expand", "slice", "select",
    "getitem", "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind", "dropout",
}  # fmt: skip
"""They show another value's memory, or copy it for a moment only."""

Arguments = tuple[Argument, ...]

MAX_BATCH = 32
MAX_ACTIVATION_BYTES = 3 * 2**29
"""1.5 GiB: what the values of one batch may take while the backward pass waits for them."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What the pass leaves behind, beside what its readers hold."""

    labels: Tensor
    """int64 [N]: the given ones, or what the model predicts."""
    top_logits: Tensor
    """float32 [N]: the largest logit of each image."""
    products: Mapping[tuple[str, int], Tensor]
    """By tensor and dimension: sum of value times gradient over the other dimensions, float64;
    empty without gradients."""


def collect(
    graph: UnitGraph,
    images: ImageSet,
    readers: Sequence[PointReader],
    *,
    with_gradients: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Run the pass.

    Args:
        readers: Are given the values at their score points, batch by batch.
        with_gradients: Whether to run backward too.
        progress: Called with the number of images done in each batch.

    Raises:
        DataError: A label does not fit the model's outputs.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(with_gradients):
        return _collect(graph, images, readers, with_gradients, progress or _ignore)


def _collect(
    graph: UnitGraph,
    images: ImageSet,
    readers: Sequence[PointReader],
    with_gradients: bool,
    progress: Callable[[int], None],
) -> Collected:
    num_images = len(images)
    products = GradientProducts(graph)
    labels = torch.zeros(num_images, dtype=torch.int64)
    top_logits = torch.zeros(num_images)
    batch = batch_size(graph, num_images)
    fixed_batch = 0 if graph.has_dynamic_batch else batch
    inputs = graph.inputs.arranged(images)
    run = _Pass(graph, readers, products, with_gradients)
    for start in range(0, num_images, batch):
        part = slice(start, min(start + batch, num_images))
        given = None if images.labels is None else images.labels[part]
        batch_inputs = tuple(tensor[part] for tensor in inputs)
        found = run.batch(batch_inputs, given, start, fixed_batch)
        labels[part], top_logits[part] = found
        progress(part.stop - part.start)
    return Collected(labels, top_logits, products.result(num_images))


def _ignore(_: int) -> None:
    """No progress is shown."""


def batch_size(graph: UnitGraph, num_images: int) -> int:
    """Images per batch whose values fit into ``MAX_ACTIVATION_BYTES``, at most ``MAX_BATCH``."""
    example_batch = graph.inputs.batch
    if not graph.has_dynamic_batch:
        return example_batch
    numbers = sum(
        math.prod(graph.shape_of(node.name))
        for node in graph.module.graph.nodes
        if node.op == "call_function" and op_name(node) not in _VIEWS
    )
    per_image = max(4 * numbers // example_batch, 1)
    return int(max(1, min(MAX_BATCH, num_images, MAX_ACTIVATION_BYTES // per_image)))


class _Pass(fx.Interpreter):
    """Runs the graph on leaf copies; reads values at score points and layers on the way."""

    def __init__(
        self,
        graph: UnitGraph,
        readers: Sequence[PointReader],
        products: GradientProducts,
        with_gradients: bool,
    ) -> None:
        super().__init__(graph.module)
        self._products = products
        self._with_gradients = with_gradients
        self._points: dict[str, list[tuple[PointReader, int]]] = {}
        for reader in readers:
            for number, point in enumerate(reader.points):
                self._points.setdefault(point.node, []).append((reader, number))
        self._folded_norms = {layer.norm for layer in products.folded.values()}
        self._where = (0, 0, 0)
        self._outputs = graph.outputs
        self._device = graph.device

    def batch(
        self, inputs: tuple[Tensor, ...], labels: Tensor | None, start: int, fixed_batch: int
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of one batch; returns its labels and top logits, on the CPU.

        Args:
            inputs: One tensor per input of the network.
            fixed_batch: Fill up to this many images by repetition, if not 0.
        """
        used = len(inputs[0])
        size = max(fixed_batch, used)
        self._where = (start, size, used)
        prepared = (_prepared(tensor, size, self._device) for tensor in inputs)
        answer = self._outputs.main_tensor(self.run(*prepared))[:used]
        task, found = self._outputs.task, answer.detach()
        targets = task.own_targets(found) if labels is None else labels.to(answer.device)
        loss = task.loss(answer, targets)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return task.groups(found, targets).cpu(), pooled(found).amax(1).float().cpu()

    def get_attr(self, target: Target, args: Arguments, kwargs: dict[str, Any]) -> object:
        """The parameter's leaf copy, or the buffer's clone."""
        copied = self._products.tensor(str(target))
        return super().get_attr(target, args, kwargs) if copied is None else copied

    def run_node(self, n: fx.Node) -> object:
        """Run one node, then read its value if a score needs it."""
        if n.name in self._products.folded:
            value = self._run_folded(n, self._products.folded[n.name])
        elif n.name in self._folded_norms:
            value = self.fetch_args_kwargs_from_env(n)[0][0]
        else:
            value = super().run_node(n)
        if self._with_gradients and self._products.is_layer(n.name):
            value = self._products.watch(n.name, value)
        for reader, number in self._points.get(n.name, ()):
            with torch.no_grad():
                reader.add(number, value, *self._where)
        return value

    def _run_folded(self, n: fx.Node, layer: FoldedLayer) -> Tensor:
        """The convolution with its batch norm in its weight and bias."""
        inputs, _weight, *rest = self.fetch_args_kwargs_from_env(n)[0]
        assert callable(n.target)
        value = n.target(inputs, layer.weight, layer.bias, *rest[1:])
        assert isinstance(value, Tensor)
        return value


def _prepared(tensor: Tensor, size: int, device: torch.device) -> Tensor:
    """An input of ``size`` images, filled up by repetition, that autograd accepts."""
    if size > len(tensor):
        tensor = tensor[torch.arange(size) % len(tensor)]
    if tensor.is_inference():
        tensor = tensor.clone()
    return _channels_last(tensor.detach().to(device))


def _channels_last(images: Tensor) -> Tensor:
    """Images in the memory order that convolutions on a CPU are fastest with."""
    if images.dim() != 4:
        return images
    return images.contiguous(memory_format=torch.channels_last)
