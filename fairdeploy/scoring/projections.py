"""Random one-dimensional views of each unit's output map, kept for all images.

The sliced Wasserstein distance compares distributions along random directions. A matrix product
reads each map once, which costs less than the activation that made it; only ``num_projections``
numbers per unit and image stay in memory, as float16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairdeploy.graph.layers import ScorePoint
from fairdeploy.scoring.channel_maps import channel_index, channel_maps, has_whole_images

MAX_STORED_BYTES = 400 * 2**20
"""Of all projections together; wide networks get fewer directions instead of more memory."""
MIN_PROJECTIONS = 4
MAX_MAP_SIZE = 16_384
"""A larger map (128 x 128) is read at every k-th position: neighbours say nearly the same."""
_FLOAT16_HEADROOM = 64.0
"""Later images may deviate this many times further than the first batch's furthest."""
_FLOAT16_MAX = 65_504.0


def affordable_projections(points: Sequence[ScorePoint], num_images: int, asked: int) -> int:
    """How many directions fit into ``MAX_STORED_BYTES``, at most ``asked``."""
    per_direction = 2 * num_images * sum(len(point.units) for point in points)
    return max(MIN_PROJECTIONS, min(asked, MAX_STORED_BYTES // max(per_direction, 1)))


class _Stored:
    """Projections of one point, shifted and scaled per unit to use float16's precision well."""

    def __init__(self, first: Tensor, num_images: int) -> None:
        self._center = first.mean(0)
        furthest = (first - self._center).abs().amax((0, 2))
        # a unit that the first images hardly touch is scaled like a weak one of its layer
        furthest = furthest.clamp_min(float(furthest.max()) / 32)
        is_usable = (furthest > 0) & torch.isfinite(furthest)
        limit = _FLOAT16_MAX / _FLOAT16_HEADROOM
        self._factor = torch.where(is_usable, limit / furthest, torch.ones_like(furthest))
        self.scale = self._factor.cpu()
        self.values = torch.zeros((num_images, *first.shape[1:]), dtype=torch.float16)

    def put(self, projected: Tensor, first_image: int) -> None:
        scaled = (projected - self._center).mul_(self._factor[:, None])
        scaled.clamp_(-_FLOAT16_MAX, _FLOAT16_MAX)
        self.values[first_image : first_image + len(scaled)] = scaled


class ProjectionStore:
    """Collects the projections of every score point, batch after batch."""

    def __init__(
        self, points: Sequence[ScorePoint], num_images: int, num_projections: int, seed: int
    ) -> None:
        self._num_images = num_images
        self._num_projections = num_projections
        self._seed = seed
        self._directions: dict[int, Tensor] = {}
        self._index = [channel_index(point) for point in points]
        self._stored: dict[int, _Stored] = {}
        self.points = tuple(points)

    @classmethod
    def affordable(
        cls, points: Sequence[ScorePoint], num_images: int, asked: int, seed: int
    ) -> ProjectionStore:
        """With ``asked`` directions, or fewer where those would take too much memory."""
        return cls(points, num_images, affordable_projections(points, num_images, asked), seed)

    def add(self, number: int, value: Tensor, first_image: int, batch: int, used: int) -> None:
        """Project one batch of the value at point ``number`` and keep it.

        Args:
            value: Read only; its batch dimension holds ``batch`` images, or as many windows each.
            first_image: Where the batch begins among all images.
            used: The first ``used`` images count, the others only filled a fixed batch.
        """
        point = self.points[number]
        if not has_whole_images(value, point, batch):
            return
        projected = self._project(value.detach(), point, self._index[number], batch)[:used]
        if number not in self._stored:
            self._stored[number] = _Stored(projected, self._num_images)
        self._stored[number].put(projected, first_image)

    def values(self, number: int) -> tuple[Tensor, Tensor] | None:
        """Shifted projections float16 [N, U, P], and what to divide each unit's by, float32 [U].

        A distance between distributions does not see the shift. None if nothing was added.
        """
        stored = self._stored.get(number)
        return None if stored is None else (stored.values, stored.scale)

    def _project(
        self, value: Tensor, point: ScorePoint, index: Tensor | None, batch: int
    ) -> Tensor:
        """Float32 [batch, U, P]: the units' maps along the directions of their length."""
        num_units, width = point.positions.shape
        maps = _thinned(channel_maps(value, point, batch), width)
        if index is not None:
            maps = maps.index_select(1, index.to(maps.device))
        if width > 1:
            maps = maps.reshape(batch, num_units, -1)
        if maps.shape[2] == 1:
            return maps.float()
        directions = self._directions_for(maps.shape[2]).to(maps.device, maps.dtype)
        return torch.matmul(maps, directions).float()

    def _directions_for(self, length: int) -> Tensor:
        """Random unit vectors, float32 [length, P]; the same for all maps of one length."""
        if length not in self._directions:
            self._directions[length] = _stratified_directions(
                length, self._num_projections, self._seed * 1_000_003 + length
            )
        return self._directions[length]


def _stratified_directions(length: int, num_projections: int, seed: int) -> Tensor:
    """Random unit vectors, float32 [length, P], evenly spread in how much they see a map's mean.

    Most of a map's variance between images is its mean. With directions drawn freely, luck in that
    one coordinate is most of the score's noise; here it takes its expected quantiles instead, as
    in stratified sampling (only up to sign, which the distance does not see).
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(length, num_projections, generator=generator)
    levels = (torch.arange(num_projections) + 0.5) / num_projections
    wanted = torch.special.ndtri(0.5 + levels / 2)
    directions += wanted / length**0.5 - directions.mean(0)
    return torch.nn.functional.normalize(directions, dim=0)


def _thinned(maps: Tensor, width: int) -> Tensor:
    """Maps [batch, C, D] with D thinned out if those of a unit are large."""
    step = -(-maps.shape[2] * width // MAX_MAP_SIZE)
    return maps[:, :, ::step] if step > 1 else maps
