"""Races against the original: files of both, the profile's batch, and shorter limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairdeploy import race
from fairdeploy.delivery import tensor_names
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.race import Race, shortened
from fairdeploy.records import TargetProfile
from tests.deployment.fakes import FunctionRunner, WorkingExporter, profile


class OpenedFiles(WorkingExporter):
    """Remembers which files were opened and whether they were there."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, bool]] = []

    def open(self, path: Path, profile: TargetProfile) -> FunctionRunner:
        self.opened.append((path.name, path.is_file()))
        return super().open(path, profile)


def test_original_is_exported_once_and_raced_with_the_profile_s_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced: list[Any] = []

    def compare(open_original: Any, open_shrunk: Any, inputs: Any, *_: Any, seed: int) -> Any:
        open_original()
        open_shrunk()
        raced.append((tuple(array.shape for array in inputs), seed))

    monkeypatch.setattr(race, "compare_latency", compare)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    graph = build_unit_graph(module, (torch.zeros(2, 3, 8, 8),))
    exporter = OpenedFiles()
    course = Race(
        graph, exporter, profile(batch=3), (torch.zeros(2, 3, 8, 8),), tensor_names(graph, False),
        seed=7, folder=tmp_path,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["original.txt"]
    course.against_network(graph.module)
    course.against_file(tmp_path / "missing.txt")
    assert raced == [(((3, 3, 8, 8),), 7)] * 2
    assert exporter.opened == [
        ("original.txt", True), ("shrunk.txt", True),
        ("original.txt", True), ("missing.txt", False),
    ]  # fmt: skip


def test_races_in_a_row_take_a_quarter_of_the_time_and_a_wider_interval() -> None:
    given = profile(warmup_seconds=0.5, max_seconds=20.0, min_pairs=40, ratio_interval=0.04)
    short = shortened(given)
    assert (short.warmup_seconds, short.max_seconds) == (0.125, 5.0)
    assert (short.min_pairs, short.ratio_interval) == (20, 0.08)
    assert (short.name, short.batch, short.threads) == (given.name, given.batch, given.threads)
