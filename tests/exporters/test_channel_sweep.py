"""The sweep's files are cut from one export, and run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fairdeploy.deployment.latency import channel_sweep
from fairdeploy.deployment.latency.channel_sweep import COUNTS, sweep_widths
from fairdeploy.records import TargetProfile
from fairdeploy_onnx import OnnxExporter, OnnxRunner
from tests.deployment.fakes import profile


class Watched(OnnxExporter):
    """Remembers the widths of the files that it opened and how many it exported."""

    def __init__(self) -> None:
        self.num_exports = 0
        self.middles: list[list[int]] = []

    def export(self, *arguments, **options):
        self.num_exports += 1
        return super().export(*arguments, **options)

    def open(self, path: Path, profile: TargetProfile) -> OnnxRunner:
        weights = {tensor.name: list(tensor.dims) for tensor in onnx.load(path).graph.initializer}
        self.middles.append(weights["2.weight"])
        return super().open(path, profile)


def test_two_exports_give_files_of_all_widths_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sweep, "MAX_ROUNDS", 1)
    exporter = Watched()
    found = sweep_widths(exporter, profile(batch=2))
    assert exporter.num_exports == 2
    assert exporter.middles == [[count, count, 3, 3] for count in COUNTS] * len(found)
    for rows in found:
        assert tuple(row.channels for row in rows) == COUNTS
        assert all(row.ms > 0 for row in rows)
