"""What units put out at a score point, whatever the order of the value's dimensions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.graph.layers import ScorePoint


def channel_index(point: ScorePoint) -> Tensor | None:
    """Channels to gather, unit after unit; None where that would be all of them in order."""
    flat: NDArray[np.int64] = point.positions.reshape(-1)
    if np.array_equal(flat, np.arange(point.num_channels)):
        return None
    return torch.from_numpy(np.ascontiguousarray(flat))


def channel_maps(value: Tensor, point: ScorePoint, batch: int) -> Tensor:
    """The value as [batch, C, D], a view wherever strides allow.

    What is folded into the batch dimension of one image joins its map.
    """
    ordered = images_and_channels(value, point, batch)
    if ordered.shape[1] == 1:
        return ordered.squeeze(1).flatten(2) if ordered.dim() > 3 else ordered.movedim(1, -1)
    return ordered.transpose(1, 2).flatten(2)


def images_and_channels(value: Tensor, point: ScorePoint, batch: int) -> Tensor:
    """The value as [batch, folded into it, C, ...]."""
    dim, channel = point.batch.dim, point.channel_dim
    return point.batch.images_first(value, batch).movedim(channel + (2 if channel < dim else 1), 2)


def has_whole_images(value: Tensor, point: ScorePoint, batch: int) -> bool:
    """Whether the batch dimension holds ``batch`` images, as often each."""
    return value.shape[point.batch.dim] % batch == 0
