"""A file cut to width and depth has the nodes and shapes of the network exported that way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fairdeploy.errors import ExportError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import BranchCut
from fairdeploy.surgery.dimension_lengths import DimensionLengths
from fairdeploy_onnx.width_template import cut_branches
from tests.exporters.test_width_template import export, first_of_each, operands, template
from tests.residual_networks import NETWORKS, images, network

GONE = {
    "option A": ("layer1.1", "layer1.2", "layer2.0"),
    "projected": ("layer1.2", "layer2.0", "layer2.2"),
    "transformer": ("blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"),
    "convnext": ("blocks.0", "blocks.2"),
}


def cuts_of(graph: UnitGraph, names: tuple[str, ...]) -> tuple[BranchCut, ...]:
    chosen = (branch for branch in graph.branches if branch.name in names)
    return tuple(BranchCut(branch.total, branch.nodes) for branch in chosen)


@pytest.mark.parametrize("kind", NETWORKS)
def test_cut_file_is_like_the_export_and_runs(kind: str, tmp_path: Path) -> None:
    graph = build_unit_graph(network(kind), (images(2),), blocks=True)
    made = template(graph, first_of_each(graph, 0.5), tmp_path)
    wanted = first_of_each(graph, 0.25)
    lengths = DimensionLengths(graph).lengths(wanted)
    made.write(tmp_path / "cut.onnx", lengths, cuts_of(graph, GONE[kind]))
    wanted[[branch.unit for branch in graph.branches if branch.name in GONE[kind]]] = True
    exported = export(graph, wanted, tmp_path / "exported.onnx")
    assert operands(tmp_path / "cut.onnx") == operands(exported)
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx")
    for count in (1, 3):
        (result,) = session.run(None, {session.get_inputs()[0].name: images(count).numpy()})
        assert result.shape == (count, 5)


def test_template_is_not_changed_by_what_it_writes(tmp_path: Path) -> None:
    graph = build_unit_graph(network("option A"), (images(2),), blocks=True)
    made = template(graph, first_of_each(graph, 0.5), tmp_path)
    lengths = DimensionLengths(graph).lengths(np.zeros(graph.num_units, dtype=np.bool_))
    made.write(tmp_path / "cut.onnx", lengths, cuts_of(graph, GONE["option A"]))
    made.write(tmp_path / "whole.onnx", lengths)
    nodes = [len(onnx.load(tmp_path / f"{name}.onnx").graph.node) for name in ("cut", "whole")]
    assert nodes[0] < nodes[1]


def test_sum_that_the_file_does_not_show_is_refused(tmp_path: Path) -> None:
    graph = build_unit_graph(network("convnext"), (images(2),), blocks=True)
    path = export(graph, np.zeros(graph.num_units, dtype=np.bool_), tmp_path / "whole.onnx")
    with pytest.raises(ExportError, match="the file has no sum 'nowhere' to cut a branch off"):
        cut_branches(onnx.load(path).graph, [BranchCut("nowhere", frozenset())])
