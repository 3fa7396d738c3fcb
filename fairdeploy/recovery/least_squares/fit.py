"""Repair accuracy without training: refit each layer to give what the original's gave.

One sweep goes through both networks in the order of execution. At each convolution or linear layer
the rows are the *shrunk* network's inputs, repaired up to here, and the targets what the original
has at the same place: after the batch norm that follows, and after the shortcut is added, less the
shortcut that the shrunk network carries, so that the layer also makes up for errors of earlier
blocks. No labels, no gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import DataError
from fairdeploy.graph.layer_rows import (
    choose_positions,
    positions_of,
    sample_rows,
    sample_targets,
)
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import LayerFit, RecoverySummary
from fairdeploy.recovery.least_squares.fittable_layers import FittableLayer, find_layers
from fairdeploy.recovery.least_squares.fitted_weights import (
    current_map,
    has_bias,
    own_tensors,
    write_map,
)
from fairdeploy.recovery.least_squares.normal_equations import (
    RidgeSystem,
    solve_ridge,
)
from fairdeploy.recovery.least_squares.sample_blocks import (
    SampleBlock,
    energy_and_variation,
    joined_blocks,
    summed,
)
from fairdeploy.recovery.least_squares.sweep import (
    DEFAULT_MEMORY_BYTES,
    Inputs,
    NetworkSweep,
    ValueStore,
    all_inputs,
    chunks_of_images,
)

Progress = Callable[[int, int], None]

HELD_OUT_EVERY = 4
CHUNK_VALUE_BYTES = 64_000_000
MAX_CHUNK_IMAGES = 64
# Rows: enough for the unknowns, more where they are nearly free. A row costs its products with
# itself and, in all passes over the sample together, six times those with the outputs.
ROWS_PER_UNKNOWN = 8
MAX_ROWS = 65_536
MAX_PRODUCT_MACS = 4e10
PASSES_OVER_OUTPUTS = 6
MAX_SAMPLE_BYTES = 400_000_000
# A Gram matrix of 0.3 GB; the few larger layers are classifiers of VGG's kind.
MAX_UNKNOWNS = 6_144
# Of the targets' sum of squares. Float32 rounding alone makes 1e-14 of equal networks, and leaves
# up to 1e-10 behind a repair, by how a processor adds up its products: well above both.
EXACT_ERROR = 1e-8


def fit_least_squares(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    images: Tensor | Inputs,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    max_memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> RecoverySummary:
    """Change the parameters and batch norm buffers of ``shrunk`` in place to mimic the original.

    Args:
        graph: Of the original network, which stays as it is.
        shrunk: The network without the removed units; same node names, sliced tensors.
        removed: Which units went, bool [num_units].
        images: Calibration images, float32 [N, C, H, W], or one tensor per input; 256 or more do
            well. No labels needed.
        seed: Of the choice of positions; equal seeds give equal weights.
        progress: Called with (layers done, layers in all).
        max_memory_bytes: Activations beyond this go to temporary files.

    Raises:
        DataError: Fewer than two images.
    """
    num_images = len(all_inputs(images)[0])
    if num_images < 2:
        raise DataError(
            f"recovery needs at least 2 calibration images, got {num_images}; add images to --data"
        )
    started = time.perf_counter()
    own_tensors(shrunk, graph.module)
    with torch.no_grad(), ValueStore(max_memory_bytes) as store:
        fits = _Fitting(graph, shrunk, removed, images, store, seed).run(progress)
    return RecoverySummary("least_squares", fits, num_images, time.perf_counter() - started)


class _Fitting:
    def __init__(
        self,
        graph: UnitGraph,
        shrunk: fx.GraphModule,
        removed: NDArray[np.bool_],
        images: Tensor | Inputs,
        store: ValueStore,
        seed: int,
    ) -> None:
        self._shrunk_module = shrunk
        self._layers = find_layers(graph, shrunk, removed)
        self._chunks = chunks_of_images(graph.module, images, max_chunk_images(graph))
        self._num_images = sum(len(chunk[0]) for chunk in self._chunks)
        self._seed = seed
        targets = {layer.target_node: i for i, layer in enumerate(self._layers)}
        self._original = NetworkSweep("original", graph.module, self._chunks, store, targets)
        self._shrunk = NetworkSweep("shrunk", shrunk, self._chunks, store, {})

    def run(self, progress: Progress | None) -> tuple[LayerFit, ...]:
        fits = []
        for index, layer in enumerate(self._layers):
            self._shrunk.advance(self._shrunk.position_of(layer.node), index)
            self._original.advance(self._original.position_of(layer.target_node) + 1, index)
            fits.append(self._fit(layer, index))
            if progress is not None:
                progress(index + 1, len(self._layers))
        return tuple(fits)

    def _fit(self, layer: FittableLayer, index: int) -> LayerFit:
        old = current_map(self._shrunk_module, layer)
        if old.shape[1] > MAX_UNKNOWNS:
            return LayerFit(layer.name, "skipped", None, None, None)
        fit_on, held_out = self._sample(layer, index, old)
        sums, held_out_sums = summed(fit_on, old), summed(held_out, old)
        num_free = int(has_bias(layer))
        found = solve_ridge(sums, held_out_sums, num_free)
        energy, variation = energy_and_variation(held_out)
        before, after = found.error_before / variation, found.error_after / variation
        if found.error_before <= EXACT_ERROR * energy:
            return LayerFit(layer.name, "exact", before, before, None)
        if math.isinf(found.ridge):
            return LayerFit(layer.name, "kept", before, before, None)
        sums, change = sums.merged(held_out_sums), found.change
        if layer.limits is not None:
            system = RidgeSystem(sums, found.ridge, num_free)
            change = refine_cut(system, [*fit_on, *held_out], change, layer.limits)
        write_map(self._shrunk_module, layer, old + change, sums)
        return LayerFit(layer.name, "fitted", before, after, found.ridge)

    def _sample(
        self, layer: FittableLayer, index: int, old: Tensor
    ) -> tuple[list[SampleBlock], list[SampleBlock]]:
        """Rows and targets at chosen positions of all chunks: to fit on, and held out."""
        blocks: tuple[list[SampleBlock], list[SampleBlock]] = ([], [])
        rows_per_image = rows_wanted(*old.shape) / self._num_images
        every = min(HELD_OUT_EVERY, self._num_images)
        for chunk, (images, *_) in enumerate(self._chunks):
            target, shortcut = self._target(layer, chunk)
            inputs = self._shrunk.value(layer.input_node, chunk)
            generator = torch.Generator().manual_seed(
                (self._seed * len(self._layers) + index) * len(self._chunks) + chunk
            )
            first = sum(len(c[0]) for c in self._chunks[:chunk])
            is_held_out = torch.arange(first, first + len(images)) % every == every - 1
            for part, mask in zip(blocks, (~is_held_out, is_held_out), strict=True):
                chosen = mask.nonzero().squeeze(1)
                if len(chosen) == 0:
                    continue
                positions = positions_of(target, layer.window, layer.batch, len(images))
                at = choose_positions(chosen, positions, rows_per_image, generator)
                rows = sample_rows(inputs, layer.window, at, has_bias(layer))
                goals = sample_targets(target, layer.window, at, layer.kept_channels)
                if shortcut is not None:
                    goals = goals - sample_targets(shortcut, layer.window, at)
                part.append(SampleBlock(rows, goals, rows @ old.float()))
        return joined_blocks(blocks[0]), joined_blocks(blocks[1])

    def _target(self, layer: FittableLayer, chunk: int) -> tuple[Tensor, Tensor | None]:
        """The original's value in the layer's layout, and what the shortcut has of it already."""
        target = self._original.value(layer.target_node, chunk)
        if layer.sum_after is None:
            return target, None
        shortcut = self._shrunk.value(layer.sum_after.shortcut, chunk)
        return layer.sum_after.in_layout(target), layer.sum_after.in_layout(shortcut)


def rows_wanted(num_groups: int, num_unknowns: int, num_outputs: int) -> int:
    """How many rows to sample for a layer, over all images."""
    macs_per_row = num_groups * num_unknowns * (num_unknowns + PASSES_OVER_OUTPUTS * num_outputs)
    affordable = int(MAX_PRODUCT_MACS / macs_per_row)
    wanted = max(ROWS_PER_UNKNOWN * num_unknowns, min(MAX_ROWS, affordable))
    return min(wanted, MAX_SAMPLE_BYTES // (4 * num_groups * (num_unknowns + 2 * num_outputs)))


def max_chunk_images(graph: UnitGraph) -> int:
    """Images that run at once: the largest value stays near 64 MB."""
    largest = max(math.prod(graph.shape_of(name)) for name in graph.value_units)
    affordable = CHUNK_VALUE_BYTES * graph.inputs.batch // (4 * largest)
    return max(1, min(MAX_CHUNK_IMAGES, affordable))


# ---- spend no effort where a ReLU cuts: refine a solution whose target is cut off afterwards -----


# More rounds lower a layer's own error further. After ReLU the network gains nothing by it (half of
# the MACs of ResNet-20, VGG and ResNet-56: RESULTS.md, "Repair without training"). After ReLU6 it
# does: EfficientNet-Lite0 at 70 % of its MACs, divergence on 250 other images 0.92 with two, 0.87
# with five, 0.81 with ten. The strength chosen by the error after the cut brings 0.04 more and
# takes several times as long.
ROUNDS_BELOW = 2
"""Where small values alone are cut off."""
ROUNDS_BETWEEN = 10
"""Where large ones are too."""


def refine_cut(
    system: RidgeSystem,
    blocks: Sequence[SampleBlock],
    change: Tensor,
    limits: tuple[float, float],
) -> Tensor:
    """A change of the weights, float64 [G, n, o], with no larger error between the limits.

    Args:
        system: Of the rows of all ``blocks``.
        blocks: The rows and targets themselves.
        change: To begin with.
        limits: What is below the first or above the second is as good as being there.
    """
    low, high = limits
    for _ in range(ROUNDS_BELOW if math.isinf(high) else ROUNDS_BETWEEN):
        cross = torch.zeros_like(change)
        for block in blocks:
            output = block.present + block.rows @ change.float()
            goal = torch.where(block.targets > low, block.targets, output.clamp_max(low))
            goal = torch.where(block.targets < high, goal, output.clamp_min(high))
            cross += block.rows.mT @ (goal - block.present)
        change = system.change(cross)
    return change
