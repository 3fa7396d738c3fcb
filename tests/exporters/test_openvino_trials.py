"""Candidates of a latency budget for OpenVINO are ONNX files that are cut, not exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.deployment.exporter_api import guarded_exporter, trial_exporter
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import LatencyComparison
from fairdeploy.runs.problem import tensor_names
from fairdeploy.runs.search.trials import LatencyTrials, TrialSetting
from fairdeploy.surgery.removal import remove_units
from fairdeploy_onnx import OnnxExporter
from fairdeploy_openvino import OpenvinoExporter
from tests.deployment.fakes import WorkingExporter, profile
from tests.exporters.captured_networks import EXAMPLE
from tests.random_networks import RandomNetwork, randomise
from tests.sized_device import SizedDevice, weight_count

pytest.importorskip("openvino", reason="needs fairdeploy[openvino]")

TARGET = profile(runtime="openvino", providers=("CPU",))


class OpeningDevice(SizedDevice):
    """Runs each file with OpenVINO once before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.weights: list[int] = []

    def compare(
        self, original: Path, shrunk: Path, inputs: tuple[Any, ...], *rest: Any, **options: Any
    ) -> LatencyComparison:
        runner = OpenvinoExporter().open(shrunk, TARGET)
        (scores,) = runner.run(inputs)
        runner.close()
        assert scores.shape == (1, 5)
        self.files.append(shrunk.name)
        self.weights.append(weight_count(shrunk))
        return super().compare(original, shrunk, inputs, *rest, **options)


def test_candidates_are_cut_and_run_by_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = randomise(RandomNetwork(("plain", "residual"), (8, 8), flatten=False), seed=1)
    graph = build_unit_graph(network, EXAMPLE)
    nothing = np.zeros(graph.num_units, dtype=np.bool_)
    most, some = nothing.copy(), nothing.copy()
    for group in graph.groups:
        for block in group.blocks:
            most[block[: group.size - 2]] = True
            some[block[: group.size // 4]] = True
    device = OpeningDevice()
    exporter = guarded_exporter(OpenvinoExporter())
    trials = LatencyTrials(
        TrialSetting(
            graph, exporter, device, TARGET, tensor_names(graph, is_input_named=False), tmp_path, 0
        ),
        most,
    )

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(trials, "_export", refuse)
    trials.time(some)
    assert device.files == ["candidate.onnx"]
    expected = tmp_path / "expected.onnx"
    OnnxExporter().export(
        remove_units(graph, some).module, EXAMPLE, expected, dynamic_batch=True, metadata={}
    )
    assert device.weights == [weight_count(expected)]
    assert trials.original.name == "original.onnx"


def test_operators_of_an_onnx_file_are_timed_by_their_torch_node(tmp_path: Path) -> None:
    network = randomise(RandomNetwork(("plain",), (4,), flatten=False), seed=1)
    graph = build_unit_graph(network, EXAMPLE)
    path = tmp_path / "model.onnx"
    OnnxExporter().export(graph.module, EXAMPLE, path, dynamic_batch=True, metadata={})
    times = OpenvinoExporter().operator_times(path, (EXAMPLE[0].numpy(),), TARGET, num_runs=2)
    convolutions = {n.name for n in graph.module.graph.nodes if "conv2d" in str(n.target)}
    assert convolutions
    assert convolutions <= {time.node for time in times}


def test_others_write_their_own_files_for_timing() -> None:
    exporter = WorkingExporter()
    assert trial_exporter(exporter) is exporter
    onnx = OnnxExporter()
    assert trial_exporter(onnx) is onnx
    assert trial_exporter(OpenvinoExporter()).name == "onnx"
