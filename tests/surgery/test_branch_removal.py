"""Networks without some residual blocks: exact, smaller, exported, and of the user's own class."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fairdeploy
from fairdeploy.errors import PlanError
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.plan import Plan, read_plan
from fairdeploy.surgery.removal import remove_units
from fairdeploy_onnx import OnnxExporter
from tests.random_networks import RandomNetwork, networks
from tests.residual_networks import (
    NETWORKS,
    BasicBlock,
    ConvNextBlock,
    SelfAttention,
    images,
    network,
)

GONE = {
    "option A": ("layer1.1", "layer1.2", "layer2.0"),
    "projected": ("layer1.2", "layer2.0", "layer2.2"),
    "transformer": ("blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"),
    "convnext": ("blocks.0", "blocks.2"),
}


def graph_of(module: nn.Module) -> UnitGraph:
    return build_unit_graph(module, (images(2),), blocks=True)


def gone_mask(graph: UnitGraph, names: tuple[str, ...], share: float = 0.0) -> np.ndarray:
    """These blocks, and the first units of every other group."""
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    for group in graph.groups:
        for block in group.blocks:
            removed[block[: int(share * group.size)]] = True
    removed[[branch.unit for branch in graph.branches]] = False
    removed[[branch.unit for branch in graph.branches if branch.name in names]] = True
    return removed


def without_blocks(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The user's code, changed by hand so that these blocks add nothing."""
    module = copy.deepcopy(module)
    for name in names:
        layer = module.get_submodule(name)
        if isinstance(layer, BasicBlock):
            layer.forward = lambda x, own=layer: own.shortcut(x).relu()  # type: ignore[method-assign,misc]
        elif isinstance(layer, ConvNextBlock):
            layer.forward = lambda x: x  # type: ignore[method-assign]
        elif isinstance(layer, SelfAttention):
            layer.forward = torch.zeros_like  # type: ignore[method-assign,assignment]
        else:
            layer.forward = torch.zeros_like
    return module


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_without_blocks_is_the_users_code_that_adds_nothing(kind: str) -> None:
    module = network(kind)
    graph = graph_of(module)
    shrunk = remove_units(graph, gone_mask(graph, GONE[kind])).module
    batch = images(5, seed=1)
    with torch.no_grad():
        expected = without_blocks(module, GONE[kind])(batch)
        torch.testing.assert_close(shrunk(batch), expected)
        assert (expected - module(batch)).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_and_units_that_go_together_are_proved(kind: str) -> None:
    graph = graph_of(network(kind))
    removed = gone_mask(graph, GONE[kind], share=0.5)
    assert prove(graph, remove_units(graph, removed).module, removed).passed


@pytest.mark.parametrize("kind", NETWORKS)
def test_nothing_of_a_block_is_left(kind: str) -> None:
    graph = graph_of(network(kind))
    removed = gone_mask(graph, GONE[kind])
    shrunk = remove_units(graph, removed).module
    gone = graph.branches_gone(removed)
    left = {node.name for node in shrunk.graph.nodes}
    assert not any(branch.nodes & left for branch in gone)
    assert not {name for branch in gone for name in branch.tensors} & shrunk.state_dict().keys()
    names = {name for name, _ in shrunk.named_parameters()}
    assert names == {str(n.target) for n in shrunk.graph.nodes if n.op == "get_attr"} & names


def test_block_that_is_gone_leaves_no_rectifier_behind() -> None:
    graph = graph_of(network("option A"))

    def count(*names: str) -> int:
        shrunk = remove_units(graph, gone_mask(graph, names)).module
        return sum(op_name(node).startswith("relu") for node in shrunk.graph.nodes)

    assert count("layer1.1") == count() - 2  # its own, and that after the sum
    # the padded shortcut comes between: the rectifier after the sum has something to do
    assert count("layer2.0") == count() - 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(max_blocks=4), st.integers(0, 2**16))
def test_any_blocks_of_random_networks_may_go(module: RandomNetwork, seed: int) -> None:
    graph = build_unit_graph(module, module.examples(), blocks=True)
    random = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    for group in graph.groups:
        count = int(random.integers(0, group.most_removed + 1))
        for block in group.blocks:
            removed[random.permutation(block)[:count]] = True
    assert prove(graph, remove_units(graph, removed).module, removed).passed


def test_wrong_surgery_is_noticed() -> None:
    graph = graph_of(network("option A"))
    removed = gone_mask(graph, GONE["option A"])
    fewer = remove_units(graph, gone_mask(graph, GONE["option A"][:2])).module
    assert not prove(graph, fewer, removed).passed


@pytest.mark.parametrize("kind", NETWORKS)
def test_own_class_comes_back_without_the_blocks(kind: str) -> None:
    module = network(kind)
    graph = graph_of(module)
    removed = gone_mask(graph, GONE[kind], share=0.5)
    shrunk = remove_units(graph, removed).module
    own, problem = rebuild_own_class(module, graph, shrunk)
    assert own is not None, problem
    assert type(own) is type(module)
    with torch.no_grad():
        torch.testing.assert_close(own(images(5)), shrunk(images(5)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (own, shrunk)]
    assert counts[0] == counts[1]
    allowed = {name.removesuffix(".mlp").removesuffix(".attn") for name in GONE[kind]}
    if kind == "transformer":
        allowed.add("blocks.2.attn")  # lost a head, and its code says how many there are
    assert set(graph_parts(own)) <= allowed


def run_onnx(path: Path, batch: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    return torch.from_numpy(found)


@pytest.mark.parametrize("kind", NETWORKS)
def test_exported_file_agrees_at_two_batch_sizes(kind: str, tmp_path: Path) -> None:
    graph = graph_of(network(kind))
    shrunk = remove_units(graph, gone_mask(graph, GONE[kind], share=0.5)).module
    path = tmp_path / "model.onnx"
    OnnxExporter().export(shrunk, graph.example_inputs, path, dynamic_batch=True, metadata={})
    for count in (1, 3):
        with torch.no_grad():
            expected = shrunk(images(count))
        torch.testing.assert_close(run_onnx(path, images(count)), expected, rtol=1e-4, atol=1e-4)


def plan_of(graph: UnitGraph, removed: np.ndarray) -> Plan:
    return Plan(
        model_name="residual", model_sha256="ab", input_shape=(3, 8, 8), tolerance=0.7,
        attention="heads", blocks=True,
        group_sizes={group.name: group.blocks.size for group in graph.groups},
        removed={
            group.name: units
            for group in graph.groups
            if (units := tuple(np.flatnonzero(removed[group.units]).tolist()))
        },
    )  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_plan_rebuilds_the_network_from_the_original(kind: str, tmp_path: Path) -> None:
    module = network(kind)
    graph = graph_of(module)
    removed = gone_mask(graph, GONE[kind], share=0.5)
    path = tmp_path / "plan.json"
    path.write_text(plan_of(graph, removed).to_json())
    assert json.loads(path.read_text())["schema_version"] == 2
    assert read_plan(path).to_json() == path.read_text()
    applied = fairdeploy.apply(module, path)
    assert type(applied) is type(module)
    with torch.no_grad():
        expected = remove_units(graph, removed).module(images(3))
        torch.testing.assert_close(applied(images(3)), expected)


def test_plan_without_blocks_is_of_the_first_version_and_takes_no_whole_group() -> None:
    plan = Plan("m", "ab", (3, 8, 8), 0.5, "heads", {"conv": 1}, {"conv": (0,)})
    document = json.loads(plan.to_json())
    assert document["schema_version"] == 1
    assert "blocks" not in document


def test_plan_that_takes_all_of_a_single_unit_is_refused_unless_that_is_a_block(
    tmp_path: Path,
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(Plan("m", "ab", (3, 8, 8), 0.5, "heads", {"conv": 1}, {"conv": (0,)}).to_json())
    with pytest.raises(PlanError, match=r"group 'conv' would lose all of its 1 units"):
        read_plan(path)


def test_optimizer_goes_on_without_the_parameters_that_are_gone(tmp_path: Path) -> None:
    module = network("projected")
    graph = graph_of(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(images(2)).square().mean().backward()
    optimizer.step()
    plan = plan_of(graph, gone_mask(graph, GONE["projected"], share=0.5))
    own, going_on = fairdeploy.apply(module, plan, optimizer=optimizer)
    held = {id(p) for group in going_on.param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in own.parameters()}
