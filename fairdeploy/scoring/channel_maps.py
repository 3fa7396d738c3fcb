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

    Windows of one image, which lie behind each other in the batch dimension, join its map.
    """
    ordered = value.movedim((point.batch_dim, point.channel_dim), (0, 1))
    maps = ordered.reshape(ordered.shape[0], ordered.shape[1], -1)
    if len(maps) > batch:
        windows = maps.reshape(batch, -1, *maps.shape[1:])
        maps = windows.transpose(1, 2).reshape(batch, maps.shape[1], -1)
    return maps


def has_whole_images(value: Tensor, point: ScorePoint, batch: int) -> bool:
    """Whether the batch dimension holds ``batch`` images, or as many windows of each."""
    return value.shape[point.batch_dim] % batch == 0
