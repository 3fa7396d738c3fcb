"""What a projection sees of a value, whatever the order of its dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.graph.batch_dimension import BatchDimension
from fairdeploy.graph.layers import ScorePoint
from fairdeploy.scoring import projections
from fairdeploy.scoring.projections import ProjectionStore, affordable_projections


def point(
    channel_dim: int, positions: list[list[int]], num_channels: int, batch_dim: int = 0
) -> ScorePoint:
    return ScorePoint(
        layer="layer",
        node="layer",
        channel_dim=channel_dim,
        batch=BatchDimension(batch_dim),
        units=np.arange(len(positions)),
        positions=np.array(positions),
        num_channels=num_channels,
    )


def projected(value: Tensor, where: ScorePoint, num_images: int, size: int = 8) -> Tensor:
    """What is stored, scaled back; like the store's, each unit's mean over images is 0."""
    store = ProjectionStore([where], num_images, size, seed=0)
    store.add(0, value, 0, num_images, num_images)
    stored = store.values(0)
    assert stored is not None
    return stored[0].float() / stored[1][:, None]


EACH = [[0], [1], [2]]


def test_projection_does_not_depend_on_where_the_channels_lie() -> None:
    value = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    first = projected(value, point(1, EACH, 3), 4)
    last = projected(value.permute(0, 2, 3, 1).contiguous(), point(3, EACH, 3), 4)
    batch_last = projected(value.permute(1, 2, 3, 0), point(0, EACH, 3, batch_dim=3), 4)
    assert first.shape == (4, 3, 8)
    torch.testing.assert_close(first, last, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(first, batch_last, rtol=2e-3, atol=2e-3)


def test_windows_of_one_image_join_its_map() -> None:
    tokens = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    whole = projected(tokens, point(2, EACH, 3), 2)
    windows = projected(tokens.reshape(6, 4, 3), point(2, EACH, 3), 2)
    torch.testing.assert_close(whole, windows, rtol=2e-3, atol=2e-3)


def test_a_unit_of_several_channels_is_one_map_of_all_of_them() -> None:
    value = torch.randn(5, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    pairs = projected(value, point(1, [[4, 1], [0, 3]], 6), 5)
    joined = torch.stack([value[:, [4, 1]].flatten(1), value[:, [0, 3]].flatten(1)], dim=1)
    expected = projected(joined, point(1, [[0], [1]], 2), 5)
    torch.testing.assert_close(pairs, expected, rtol=2e-3, atol=2e-3)


def test_scalar_outputs_are_kept_as_they_are() -> None:
    value = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, 0.5]])
    kept = projected(value, point(1, EACH, 3), 2)
    torch.testing.assert_close(kept[..., 0], value - value.mean(0), rtol=1e-3, atol=1e-3)


def test_a_value_that_does_not_follow_the_batch_is_left_out() -> None:
    store = ProjectionStore([point(1, EACH, 3)], 4, 8, seed=0)
    store.add(0, torch.ones(7, 3), 0, 4, 4)
    assert store.values(0) is None


def test_large_outputs_do_not_overflow_float16() -> None:
    value = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1e9
    kept = projected(value, point(1, EACH, 3), 2)
    assert torch.isfinite(kept).all()
    assert kept.abs().max() > 1e8


def test_small_differences_on_a_large_offset_survive_float16() -> None:
    value = torch.tensor([[1000.0, 5.0], [1000.25, 5.0]])
    kept = projected(value, point(1, [[0], [1]], 2), 2)
    torch.testing.assert_close(kept[:, :, 0], torch.tensor([[-0.125, 0.0], [0.125, 0.0]]))


def test_directions_are_unit_vectors_spread_evenly_over_the_maps_mean() -> None:
    directions = projections._stratified_directions(400, 32, seed=1)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(32))
    along_mean = directions.sum(0) / 20
    assert (along_mean.diff() > -0.01).all()
    expected = torch.tensor((2 / torch.pi) ** 0.5 / 20)
    assert along_mean.mean() == pytest.approx(float(expected), rel=0.1)


def test_thirty_thousand_channels_of_256_images_stay_below_half_a_gigabyte() -> None:
    wide = point(1, [[unit] for unit in range(30_000)], 30_000)
    kept = affordable_projections([wide], 256, 64)
    assert 16 <= kept < 64
    assert 2 * 30_000 * 256 * kept < 500e6
    assert affordable_projections([point(1, EACH, 3)], 256, 64) == 64
