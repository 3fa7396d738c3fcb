"""How many units go together."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.graph.unit_graph import Group, Member
from fairdeploy.runs.stages.groups import unit_step


def group(size: int, channels_per_unit: int) -> Group:
    positions = np.arange(size * channels_per_unit).reshape(size, channels_per_unit)
    members = (
        Member("a.weight", 0, "produces", np.arange(size), positions),
        Member("b.weight", 1, "consumes", np.arange(size), np.repeat(positions, 49, axis=1)),
    )
    return Group("a", np.arange(size)[None], members)


@pytest.mark.parametrize(
    ("size", "channels_per_unit", "step"),
    [
        (512, 1, 8),
        (64, 1, 8),
        (63, 1, 4),  # eight blocks at least
        (16, 1, 2),
        (7, 1, 1),
        (128, 2, 4),  # two channels a unit: four units make eight channels
        (12, 64, 1),  # attention heads bring their own multiple
        (128, 3, 8),
    ],
)
def test_units_go_in_blocks_that_keep_channel_counts_multiples_of_eight(
    size: int, channels_per_unit: int, step: int
) -> None:
    assert unit_step(group(size, channels_per_unit), 8) == step


def test_units_go_one_by_one_when_the_target_has_no_preference() -> None:
    assert unit_step(group(512, 1), 1) == 1
