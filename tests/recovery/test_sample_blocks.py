from __future__ import annotations

import pytest
import torch

from fairdeploy.recovery.least_squares.sample_blocks import (
    SampleBlock,
    energy_and_variation,
    joined_blocks,
)


def block(num_rows: int, first: int = 0) -> SampleBlock:
    rows = torch.arange(first, first + num_rows, dtype=torch.float32).reshape(1, num_rows, 1)
    return SampleBlock(rows, 2 * rows, 3 * rows)


def test_joining_keeps_all_rows_in_order_in_blocks_of_the_same_problem() -> None:
    parts = [block(3000), block(2000, 3000), block(10, 5000)]
    joined = joined_blocks(parts)
    assert [b.rows.shape[1] for b in joined] == [5000, 10]
    rows = torch.cat([b.rows for b in joined], dim=1)
    assert torch.equal(rows.flatten(), torch.arange(5010.0))
    for b in joined:
        assert torch.equal(b.targets, 2 * b.rows)
        assert torch.equal(b.residuals, -b.rows)
    assert joined_blocks([]) == []


def test_energy_is_around_zero_and_variation_around_the_mean() -> None:
    # Targets 0, 2, 4: squares 0 + 4 + 16, around their mean 4 + 0 + 4.
    energy, variation = energy_and_variation([block(2), block(1, 2)])
    assert energy == pytest.approx(20.0)
    assert variation == pytest.approx(8.0)
