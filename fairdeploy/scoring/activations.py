"""Signals that the outputs of units give: read in the forward pass, after norm and activation.

All are means over the calibration images. A unit of several channels (an attention head) has the
mean of theirs, except for the rank over tokens, where the channels are the columns of its map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fairdeploy.graph.layers import ScorePoint
from fairdeploy.scoring.channel_maps import (
    channel_index,
    channel_maps,
    has_whole_images,
    images_and_channels,
)
from fairdeploy.scoring.readings import Reading, Scores

MAX_RANKED_IMAGES = 64
"""The paper finds the mean rank all but independent of how many images it is taken over, and a
singular value decomposition of each map costs more than all else."""
_MAX_PREFIX_TOKENS = 8
"""Class and register tokens that come before those of the image."""


class PointReader(Protocol):
    """Reads the values at score points in the forward pass."""

    @property
    def points(self) -> Sequence[ScorePoint]:
        """Where it reads."""

    def add(self, number: int, value: Tensor, first_image: int, batch: int, used: int) -> None:
        """Read one batch of the value at point ``number``.

        Args:
            value: Read only; its batch dimension holds ``batch`` images, or as many windows each.
            first_image: Where the batch begins among all images.
            used: The first ``used`` images count, the others only filled a fixed batch.
        """


def magnitudes(maps: Tensor) -> Tensor:
    """Absolute values: their mean is the activation mean (Molchanov et al. 2017, 1611.06440).

    After ReLU it is the paper's mean; after activations that go below zero, and where none follows,
    a plain mean would let the two sides cancel.
    """
    return maps.abs()


def firings(maps: Tensor) -> Tensor:
    """Whether values are above 0: their share is 1 - APoZ (Hu et al. 2016, arXiv 1607.03250).

    After ReLU APoZ is the average percentage of zeros. Smooth activations have none, there a value
    at or below 0 counts as off.
    """
    return (maps > 0).to(maps.dtype)


class ChannelMeans:
    """The mean of some function of the values over images and positions, channel by channel."""

    def __init__(self, points: Sequence[ScorePoint], function: Callable[[Tensor], Tensor]) -> None:
        self.points = tuple(points)
        self._function = function
        self._totals: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, number: int, value: Tensor, first_image: int, batch: int, used: int) -> None:
        """See ``PointReader``."""
        point = self.points[number]
        if not has_whole_images(value, point, batch):
            return
        maps = channel_maps(value.detach(), point, batch)[:used]
        total = self._function(maps).sum((0, 2)).double().cpu()
        self._totals[number] = self._totals.get(number, torch.zeros_like(total)) + total
        self._counts[number] = self._counts.get(number, 0) + maps.shape[0] * maps.shape[2]

    def readings(self) -> Iterator[Reading]:
        """What each point says of its units."""
        for number, total in self._totals.items():
            point = self.points[number]
            by_channel = _finite(total / max(self._counts[number], 1))
            yield point.units, by_channel[point.positions].mean(axis=1)


class MapRanks:
    """The mean rank of the units' maps: HRank (Lin et al. 2020, arXiv 2002.10179).

    A map is the channel's H by W output. Where the positions are a sequence, the map of a head is
    tokens by channels, and the tokens of a single channel are put back into the grid of patches
    that they came from, for a single row has rank 1 whatever it says. Scalars have rank 0 or 1.
    Units whose maps all have full rank are alike to this signal, and go in the order of numbers.
    """

    def __init__(self, points: Sequence[ScorePoint], num_images: int) -> None:
        self.points = tuple(points)
        self._index = [channel_index(point) for point in points]
        number = min(num_images, MAX_RANKED_IMAGES)
        self._images = torch.linspace(0, max(num_images - 1, 0), number).round().long()
        self._totals: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, number: int, value: Tensor, first_image: int, batch: int, used: int) -> None:
        """See ``PointReader``."""
        point = self.points[number]
        chosen = self._images[(self._images >= first_image) & (self._images < first_image + used)]
        if not len(chosen) or not has_whole_images(value, point, batch):
            return
        images = images_and_channels(value.detach(), point, batch)
        values = images[(chosen - first_image).to(value.device)].flatten(0, 1)
        index = self._index[number]
        if index is not None:
            values = values.index_select(1, index.to(values.device))
        ranks = _ranks(values.float(), *point.positions.shape)
        total = ranks.sum(0).double().cpu()
        self._totals[number] = self._totals.get(number, torch.zeros_like(total)) + total
        self._counts[number] = self._counts.get(number, 0) + len(ranks)

    def readings(self) -> Iterator[Reading]:
        """What each point says of its units."""
        for number, total in self._totals.items():
            yield self.points[number].units, _finite(total / max(self._counts[number], 1))


def _ranks(values: Tensor, num_units: int, width: int) -> Tensor:
    """Rank of each unit's map in each image, float [N, U].

    Args:
        values: [N, U * width, ...].
        num_units: U.
        width: Channels of each unit.
    """
    by_unit = values.reshape(len(values), num_units, width, *values.shape[2:])
    if by_unit.dim() == 4:  # a sequence
        if width > 1:
            return _matrix_ranks(by_unit)
        by_unit = _patches(by_unit)
    elif by_unit.dim() == 3:  # scalars
        return _matrix_ranks(by_unit[..., None])
    return _matrix_ranks(by_unit.flatten(3, -2)).mean(2)


def _patches(tokens: Tensor) -> Tensor:
    """Sequences of T tokens, [..., T], as grids [..., H, W].

    A few tokens in front are left out if the others make a square, as class tokens do.
    """
    length = tokens.shape[-1]
    for num_prefix in range(min(_MAX_PREFIX_TOKENS, length // 4) + 1):
        side = math.isqrt(length - num_prefix)
        if side > 1 and side * side == length - num_prefix:
            return tokens[..., num_prefix:].reshape(*tokens.shape[:-1], side, side)
    side = next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)
    return tokens.reshape(*tokens.shape[:-1], side, length // side)


def _matrix_ranks(maps: Tensor) -> Tensor:
    """Rank of each [..., H, W], as a float; of a map that is not finite 0."""
    is_finite = maps.isfinite().all(-1).all(-1)
    maps = torch.where(is_finite[..., None, None], maps, torch.zeros_like(maps))
    if 1 in maps.shape[-2:]:
        return (maps != 0).any(-1).any(-1).float()
    ranks: Tensor = torch.linalg.matrix_rank(maps)
    return ranks.float()


def _finite(values: Tensor) -> Scores:
    return np.nan_to_num(values.numpy().astype(np.float64), nan=0.0, posinf=0.0)
