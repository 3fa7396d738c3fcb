"""Operator times name the torch node that each operator came from, whatever the runtime fused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from fairdeploy.errors import ExportError
from fairdeploy.graph.call_facts import module_paths
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.removal import remove_units
from fairdeploy_onnx import OnnxExporter
from fairdeploy_onnx.operator_profile import operator_rows
from fairdeploy_onnx.operator_times import operator_origins
from tests.deployment.fakes import PROFILE, profile
from tests.random_networks import randomise

IMAGE = (np.zeros((1, 3, 16, 16), dtype=np.float32),)
EXAMPLE = (torch.zeros(2, 3, 16, 16),)


class Small(nn.Module):
    """A stem with a batch norm, a residual block whose ReLU works in place, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(True))
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of five classes."""
        x = self.stem(x)
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.classifier(self.norm(x.mean((2, 3))))


@pytest.fixture(scope="module")
def graph():
    return build_unit_graph(randomise(Small(), seed=1), EXAMPLE)


@pytest.fixture(scope="module")
def original(graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "original.onnx"
    OnnxExporter().export(graph.module, EXAMPLE, path, dynamic_batch=True, metadata={})
    return path


def test_each_operator_is_attributed_to_the_module_that_issued_it(graph, original: Path) -> None:
    times = OnnxExporter().operator_times(original, IMAGE, PROFILE, num_runs=3)
    paths = module_paths(graph.module)
    found = [(time.op_type, paths[time.node]) for time in times if time.op_type in ("Conv", "Gemm")]
    assert found == [
        ("Conv", "stem.0"), ("Conv", "inner"), ("Conv", "outer"), ("Gemm", "classifier")
    ]  # fmt: skip
    assert {paths[time.node] for time in times if "Norm" in time.op_type} == {"norm"}
    assert all(time.node in paths for time in times)
    assert all(time.median_ms >= 0 for time in times)
    inner = next(time for time in times if paths[time.node] == "inner" and time.op_type == "Conv")
    assert inner.output_shape == (1, 32, 16, 16)


def test_original_and_shrunk_share_their_node_names(graph, original: Path, tmp_path: Path) -> None:
    mask = graph.removed_mask({group.name: (0, 1) for group in graph.groups})
    shrunk = tmp_path / "shrunk.onnx"
    OnnxExporter().export(
        remove_units(graph, mask).module, EXAMPLE, shrunk, dynamic_batch=True, metadata={}
    )
    before, after = (
        {time.node for time in OnnxExporter().operator_times(path, IMAGE, PROFILE, num_runs=1)}
        for path in (original, shrunk)
    )
    assert before == after


def test_nodes_of_the_file_hold_the_name_of_their_torch_node_and_nothing_else(
    graph, original: Path
) -> None:
    nodes = onnx.load(original).graph.node
    noted = {node.op_type: dict((p.key, p.value) for p in node.metadata_props) for node in nodes}
    names = {node.name for node in graph.module.graph.nodes}
    assert all(set(note) <= {"fairdeploy.node"} for note in noted.values())
    assert noted["Gemm"]["fairdeploy.node"] in names
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert all(
        re.fullmatch(r"conv2d(_\d)?", item.value)
        for node in convolutions
        for item in node.metadata_props
    )


def test_profiling_leaves_no_file_behind(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    OnnxExporter().operator_times(original, IMAGE, PROFILE, num_runs=1)
    assert list(tmp_path.iterdir()) == []
    assert [file.name for file in original.parent.iterdir()] == ["original.onnx"]


def test_a_wrong_precision_and_no_runs_are_refused(original: Path) -> None:
    with pytest.raises(ExportError, match="asks for precision 'int4'"):
        OnnxExporter().operator_times(original, IMAGE, profile(precision="int4"))
    with pytest.raises(ExportError, match="operator times need at least 1 run, got 0"):
        OnnxExporter().operator_times(original, IMAGE, PROFILE, num_runs=0)


def event(name: str, start: int, microseconds: int, category: str = "Node") -> dict[str, object]:
    arguments = {"op_name": "Conv", "output_type_shape": [{"float": [1, 4, 8, 8]}]}
    return {"cat": category, "name": name, "ts": start, "dur": microseconds, "args": arguments}


def test_times_are_summed_within_a_run_and_the_first_runs_dropped() -> None:
    events = [
        event("model_run", 0, 100, "Session"),
        event("a_kernel_time", 10, 50),
        event("model_run", 200, 100, "Session"),
        event("a_kernel_time", 210, 7),
        event("a_kernel_time", 220, 8),
        event("a_fence_before", 230, 99),
        event("model_run", 400, 100, "Session"),
        event("a_kernel_time", 410, 20),
    ]
    # 15 and 20 microseconds in the last two runs
    assert operator_rows(events, num_runs=2) == [
        {"name": "a", "op_type": "Conv", "shape": [1, 4, 8, 8], "median_ms": 0.0175}
    ]


def noted(op_type: str, name: str, inputs: list[str], outputs: list[str], source: str):
    node = helper.make_node(op_type, inputs, outputs, name=name)
    node.metadata_props.append(onnx.StringStringEntryProto(key="fairdeploy.node", value=source))
    return node


FILE = [
    noted("Conv", "conv_a", ["image", "weight_a"], ["a"], "first"),
    noted("Conv", "conv_b", ["image", "weight_b"], ["b"], "shortcut"),
    noted("Add", "sum", ["a", "b"], ["total"], "add"),
    noted("Relu", "rectify", ["total"], ["rectified"], "relu"),
    noted("Add", "bias", ["rectified", "offset"], ["moved"], "linear"),
    noted("Gelu", "bend", ["moved"], ["bent"], "gelu"),
]


def run(op_type: str, name: str, inputs: list[str], outputs: list[str]):
    return helper.make_node(op_type, inputs, outputs, name=name)


def test_a_fused_convolution_is_told_from_its_neighbour_by_its_weights() -> None:
    ran = [
        run("Conv", "conv_a", ["image", "weight_a"], ["a"]),
        run("FusedConv", "fused", ["image", "weight_b", "", "a"], ["rectified"]),
        run("BiasGelu", "BiasGelu_token_3", ["rectified", "offset"], ["bent"]),
    ]
    assert operator_origins(FILE, ran) == {
        "conv_a": "first", "fused": "shortcut", "BiasGelu_token_3": "gelu"
    }  # fmt: skip


def test_a_blocked_convolution_is_found_by_its_value_and_reorders_by_their_neighbour() -> None:
    ran = [
        run("ReorderInput", "ReorderInput_token_1", ["image"], ["reorder"]),
        run("Conv", "a_nchwc", ["reorder", "reorder_token_1"], ["reorder_token_2"]),
        run("ReorderOutput", "ReorderOutput", ["reorder_token_2"], ["a"]),
        run("Conv", "conv_b", ["image", "weight_b", "", "a"], ["rectified"]),
        run("Mystery", "added", ["unheard"], ["of"]),
    ]
    assert operator_origins(FILE, ran) == {
        "ReorderInput_token_1": "first",
        "a_nchwc": "first",
        "ReorderOutput": "first",
        "conv_b": "shortcut",
        "added": "",
    }


def test_a_file_without_our_notes_has_no_nodes(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([run("Relu", "r", ["x"], ["y"])], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "foreign.onnx")
    (time,) = OnnxExporter().operator_times(
        tmp_path / "foreign.onnx", (np.ones((1, 4), dtype=np.float32),), PROFILE, num_runs=1
    )
    assert (time.name, time.op_type, time.node, time.output_shape) == ("r", "Relu", "", (1, 4))
