from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fairdeploy.graph.batch_dimension import BatchDimension
from fairdeploy.graph.layer_rows import (
    LINEAR,
    Positions,
    Window,
    choose_positions,
    positions_of,
    sample_rows,
    sample_targets,
)

CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@pytest.mark.parametrize(
    ("window", "size"),
    [
        (Window((3, 3), (1, 1), (1, 1), (1, 1)), (6, 5)),
        (Window((3, 2), (2, 1), (1, 0), (1, 2), groups=2), (7, 6)),
        (Window((1, 1), (2, 2), (0, 0), (1, 1)), (5, 5)),
        (Window((5, 5), (2, 2), (2, 2), (1, 1), groups=4), (8, 8)),
        (Window((3,), (2,), (1,), (1,)), (9,)),
        (Window((2, 3, 2), (1, 2, 1), (1, 1, 0), (1, 1, 1)), (4, 5, 4)),
    ],
)
def test_rows_times_weights_are_the_convolution(window: Window, size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, *size, generator=generator)
    weight = torch.randn(8, 4 // window.groups, *window.kernel, generator=generator)
    bias = torch.randn(8, generator=generator)
    output = CONVOLVE[len(size)](
        inputs, weight, bias, window.stride, window.padding, window.dilation, window.groups
    )
    positions = positions_of(output, window, BatchDimension(0), 2)
    at = choose_positions(torch.arange(2), positions, 1e9, generator)
    rows = sample_rows(inputs, window, at, has_bias=True)
    solution = torch.cat([weight.flatten(1), bias[:, None]], dim=1)
    product = rows @ solution.reshape(window.groups, 8 // window.groups, -1).mT
    torch.testing.assert_close(product, sample_targets(output, window, at))
    assert product.numel() == output.numel()


@pytest.mark.parametrize("count", [3, 400])
def test_few_positions_and_many_give_the_same_patches(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    window = Window((3, 2), (2, 1), (1, 1), (1, 2), groups=2)
    inputs = torch.randn(2, 4, 9, 8, generator=generator)
    unfolded = functional.unfold(inputs, (3, 2), window.dilation, window.padding, window.stride)
    at = (torch.arange(count) % 2, torch.arange(count) % 5, torch.arange(count) % 8)
    rows = sample_rows(inputs, window, at, has_bias=False)
    wanted = unfolded.reshape(2, 24, 5, 8)[at[0], :, at[1], at[2]]
    assert torch.equal(rows.transpose(0, 1).reshape(count, 24), wanted)


def test_linear_rows_are_feature_vectors_with_channels_last() -> None:
    inputs = torch.arange(24.0).reshape(2, 3, 4)
    at = (torch.tensor([1]), torch.tensor([2]))
    rows = sample_rows(inputs, LINEAR, at, has_bias=True)
    assert rows.tolist() == [[[20.0, 21.0, 22.0, 23.0, 1.0]]]
    assert sample_targets(inputs, LINEAR, at, kept=(0, 3)).tolist() == [[[20.0, 23.0]]]


def test_positions_are_evenly_many_per_image_and_repeat_with_the_seed() -> None:
    positions = Positions((4, 10, 10), BatchDimension(0), 4)

    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        at = choose_positions(torch.tensor([1, 3]), positions, 4.2, generator)
        return [index.tolist() for index in at]

    images, rows, columns = draw(0)
    assert images == [1] * 5 + [3] * 5
    assert all(0 <= value < 10 for value in rows + columns)
    assert draw(0) == [images, rows, columns]
    assert draw(1) != draw(0)


def test_every_position_is_taken_once_when_there_are_not_more_than_asked_for() -> None:
    positions = Positions((1, 2, 3), BatchDimension(0), 1)
    at = choose_positions(torch.tensor([0]), positions, 100, torch.Generator().manual_seed(0))
    assert [index.tolist() for index in at] == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize("rows_per_image", [2, 1_000])
def test_positions_are_of_the_images_that_were_asked_for_wherever_those_lie(
    rows_per_image: int,
) -> None:
    images = torch.arange(3.0)
    sequence_first = images[None, :, None].expand(5, 3, 2)
    time_outside = images[None, :, None].expand(4, 3, 2).reshape(12, 1, 2)
    windows_inside = images[:, None, None].expand(3, 4, 2).reshape(12, 1, 2)
    for value, batch in (
        (sequence_first, BatchDimension(1)),
        (time_outside, BatchDimension(0, outer=4)),
        (windows_inside, BatchDimension(0, inner=4)),
    ):
        positions = positions_of(value, LINEAR, batch, 3)
        generator = torch.Generator().manual_seed(0)
        at = choose_positions(torch.tensor([0, 2]), positions, rows_per_image, generator)
        found = sample_rows(value, LINEAR, at, has_bias=False)[0, :, 0]
        per_image = min(rows_per_image, value.numel() // 6)
        assert sorted(found.tolist()) == [0.0] * per_image + [2.0] * per_image
