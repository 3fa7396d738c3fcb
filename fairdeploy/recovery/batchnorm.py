"""Re-estimate batch norm statistics: the cheap repair, and the first step of any other."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from fairdeploy.errors import DataError
from fairdeploy.graph.layer_rows import aten, bound_arguments
from fairdeploy.records import RecoverySummary
from fairdeploy.recovery.least_squares.sweep import (
    DEFAULT_MEMORY_BYTES,
    NetworkSweep,
    ValueStore,
    all_inputs,
    attribute,
    chunks_of_images,
)

MAX_CHUNK_IMAGES = 32


def reestimate_batchnorm(
    shrunk: fx.GraphModule,
    images: Tensor | tuple[Tensor, ...],
    *,
    max_memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> RecoverySummary:
    """Change the running statistics of ``shrunk`` in place to those of ``images``.

    Layer by layer: each batch norm sees inputs that earlier ones have already normalised with
    their new statistics, over all images at once, not as an average over batches.

    Args:
        shrunk: In eval mode.
        images: float32, shape [N, C, H, W]; or one tensor per input.
        max_memory_bytes: Activations beyond this go to temporary files.

    Raises:
        DataError: There are no images.
    """
    started = time.perf_counter()
    chunks = chunks_of_images(shrunk, images, MAX_CHUNK_IMAGES)
    num_images = len(all_inputs(images)[0])
    if not chunks:
        raise DataError(f"recovery needs calibration images, got {num_images}; add some to --data")
    norms = [n for n in shrunk.graph.nodes if n.target is aten.batch_norm.default]
    with torch.no_grad(), ValueStore(max_memory_bytes) as store:
        sweep = NetworkSweep("shrunk", shrunk, chunks, store, {})
        for index, norm in enumerate(norms):
            sweep.advance(sweep.position_of(norm.name), index)
            arguments = bound_arguments(norm)
            source = arguments["input"].name
            mean, variance = _moments(sweep.value(source, c) for c in range(len(chunks)))
            for name, value in (("running_mean", mean), ("running_var", variance)):
                buffer = arguments[name]
                if isinstance(buffer, fx.Node) and buffer.op == "get_attr":
                    tensor = attribute(shrunk, str(buffer.target))
                    tensor.copy_(value)
    return RecoverySummary("batchnorm", (), num_images, time.perf_counter() - started)


def _moments(values: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over images and positions."""
    sums = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for value in values:
        rows = value.transpose(0, 1).flatten(1)
        sums = sums + rows.sum(dim=1, dtype=torch.float64)
        squares = squares + rows.square().sum(dim=1, dtype=torch.float64)
        count += rows.shape[1]
    mean = sums / count
    return mean, (squares / count - mean.square()).clamp_min(0)
