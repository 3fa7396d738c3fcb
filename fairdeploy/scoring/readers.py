"""Layers that read units, and the sums over their inputs that tell what others can make up for.

A convolution's inputs are its patches. Where there are too many numbers in one, the channels at
single positions stand for it, and the kernel's taps count as so many more outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.graph.batch_dimension import BatchDimension, batch_dimensions
from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.layer_rows import (
    LINEAR,
    Positions,
    Window,
    aten,
    bound_arguments,
    choose_positions,
    is_layer_call,
    sample_rows,
    window_of,
)
from fairdeploy.graph.unit_graph import KEPT, UnitGraph, UnitIds
from fairdeploy.records import ImageSet
from fairdeploy.scoring.collector import batch_size

# A matrix of 11 MB; beyond it neighbouring pixels add little to what a channel's own say.
MAX_PATCH_NUMBERS = 1_152
# A matrix of 0.13 GB; the few wider layers are classifiers of VGG's kind.
MAX_CHANNELS = 4_096
ROWS_PER_NUMBER = 16
MIN_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Reader:
    """A convolution or linear layer whose input channels are units."""

    node: str
    input_node: str
    window: Window
    """Of the rows: the layer's own, or of single positions."""
    weight: Tensor
    """float64 [G, n, o]: the layer's map from rows to outputs (and taps)."""
    has_constant: bool
    """Whether the last of the n rows is a constant that the layer can add."""
    batch: BatchDimension | None
    """Of its input; None where that holds no images."""
    owners: tuple[UnitIds, ...]
    """The one or two units of each input channel, or ``KEPT``."""

    @property
    def numbers_per_channel(self) -> int:
        """Numbers of a row that belong to one input channel."""
        return math.prod(self.window.kernel)

    @property
    def rows_key(self) -> tuple[str, Window, bool]:
        """Readers that agree in it have the same rows."""
        return self.input_node, self.window, self.has_constant


def find_readers(graph: UnitGraph) -> tuple[Reader, ...]:
    """All layers that read units, in graph order; depthwise ones only pass them on."""
    batches = batch_dimensions(graph)
    found = (_reader_at(node, graph, batches) for node in graph.module.graph.nodes)
    return tuple(reader for reader in found if reader is not None)


def _reader_at(
    node: fx.Node, graph: UnitGraph, batches: Mapping[str, BatchDimension]
) -> Reader | None:
    if not is_layer_call(node):
        return None
    arguments = bound_arguments(node)
    source, weight = arguments["input"], arguments["weight"]
    tensor = _stored(weight, graph.module)
    if tensor is None or source.name not in graph.value_units:
        return None
    kernel = tuple(tensor.shape[2:])
    window = window_of(arguments, kernel) if kernel else LINEAR
    dims = graph.value_units[source.name]
    if len(dims) < 2 + len(kernel):  # a single image without its batch
        return None
    channels = dims[1 if kernel else -1]
    is_depthwise = window.groups > 1 and tensor.shape[1] == 1
    is_too_wide = tensor.shape[1] > MAX_CHANNELS
    if channels.ndim > 1 or is_depthwise or is_too_wide or not (channels != KEPT).any():
        return None
    scale = _scale_of_norm(node, graph.module)
    if scale is not None:
        tensor = tensor * scale.reshape(-1, *[1] * (tensor.dim() - 1))
    has_constant = arguments["bias"] is not None or scale is not None
    window, flat = _rows_and_weight(window, tensor)
    if has_constant:
        flat = torch.cat([flat, flat.new_zeros(flat.shape[0], 1, flat.shape[2])], dim=1)
    batch, owners = batches.get(source.name), graph.owners(channels)
    return Reader(node.name, source.name, window, flat, has_constant, batch, owners)


def _scale_of_norm(layer: fx.Node, module: fx.GraphModule) -> Tensor | None:
    """What the batch norm that alone reads a layer multiplies its channels with, float64 [o]."""
    norm = next(iter(layer.users), None)
    if norm is None or len(layer.users) > 1 or norm.target is not aten.batch_norm.default:
        return None
    arguments = bound_arguments(norm)
    gamma, variance = (_stored(arguments[key], module) for key in ("weight", "running_var"))
    if variance is None:
        return None
    scale = (variance + float(arguments["eps"])).rsqrt()
    return scale if gamma is None else gamma * scale


def _stored(source: object, module: fx.GraphModule) -> Tensor | None:
    """Value of a parameter or buffer, float64; None if it is none."""
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    tensor = fetch_tensor(module, str(source.target))
    return None if tensor is None else tensor.detach().double().cpu()


def _rows_and_weight(window: Window, weight: Tensor) -> tuple[Window, Tensor]:
    """Window of the rows and the weight [G, n, o] that multiplies them."""
    groups = window.groups
    by_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    num_taps = by_group.shape[3]
    if num_taps == 1 or by_group.shape[2] * num_taps <= MAX_PATCH_NUMBERS:
        return window, by_group.flatten(2).mT.contiguous()
    ones = (1,) * len(window.kernel)
    single = Window(ones, ones, (0,) * len(ones), ones, groups)
    return single, by_group.permute(0, 2, 1, 3).flatten(2)


class RowProducts(fx.Interpreter):
    """Runs the network and sums up rows' products with themselves, at sampled positions."""

    def __init__(self, graph: UnitGraph, readers: tuple[Reader, ...], num_images: int) -> None:
        super().__init__(graph.module)
        self._graph = graph
        self._num_images = num_images
        self._readers: dict[str, Reader] = {}
        for reader in {reader.rows_key: reader for reader in reversed(readers)}.values():
            self._readers[reader.node] = reader
        self._grams = {
            reader.rows_key: torch.zeros(
                len(reader.weight), *[reader.weight.shape[1]] * 2, dtype=torch.float64
            )
            for reader in readers
        }
        self._generator = torch.Generator()
        self._used = (0, 0)

    def gram(self, reader: Reader) -> Tensor:
        """float64 [G, n, n]: sum over all rows."""
        return self._grams[reader.rows_key]

    def collect(self, images: ImageSet, seed: int, progress: Callable[[int], None]) -> None:
        """Run all images, batch after batch; the graph's tensors stay as they are."""
        self._generator.manual_seed(seed)
        inputs = self._graph.inputs.arranged(images)
        for start, size, used in _batches(self._graph, self._num_images):
            self._used = size, used
            part = [tensor[start : start + used] for tensor in inputs]
            filled = [
                tensor if used == size else tensor[torch.arange(size) % used] for tensor in part
            ]
            with torch.no_grad():
                self.run(*(tensor.to(self._graph.device) for tensor in filled))
            progress(used)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; a reader's input is there then."""
        if n.name in self._readers:
            self._add(self._readers[n.name], self.fetch_args_kwargs_from_env(n)[0][0])
        return super().run_node(n)

    def _add(self, reader: Reader, inputs: Tensor) -> None:
        size, used = self._used
        places = _places(inputs, reader.window)
        positions = Positions(places, reader.batch or BatchDimension(0), size)
        if reader.batch is None or places[positions.batch.dim] % size:  # of no image or of all
            positions, used = Positions(places, BatchDimension(0), 1), 1
        wanted = max(MIN_ROWS, ROWS_PER_NUMBER * reader.weight.shape[1])
        at = choose_positions(
            torch.arange(used), positions, wanted / self._num_images, self._generator
        )
        rows = sample_rows(inputs, reader.window, at, reader.has_constant).float()
        self._grams[reader.rows_key] += (rows.mT @ rows).double().cpu()


def _batches(graph: UnitGraph, num_images: int) -> Iterator[tuple[int, int, int]]:
    """Where each batch starts, how many images it runs, and how many of them are new."""
    batch = batch_size(graph, num_images)
    for start in range(0, num_images, batch):
        used = min(batch, num_images - start)
        yield start, used if graph.has_dynamic_batch else batch, used


def _places(inputs: Tensor, window: Window) -> tuple[int, ...]:
    """How many positions a row can be taken at, by every dimension but the channels'."""
    if window.is_linear:
        return tuple(inputs.shape[:-1])
    dims = zip(inputs.shape[2:], *_by_dim(window), strict=True)
    moves = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in dims)
    return (inputs.shape[0], *moves)


def _by_dim(window: Window) -> tuple[tuple[int, ...], ...]:
    return window.kernel, window.stride, window.padding, window.dilation
