"""One model through capture, search, surgery, proof and export, and the laws that it must obey.

A broken law is written down, and the rest still runs; an exception ends the run of that model.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import unit_graph_from_capture
from fairdeploy.records import Allocation, GroupScores, UnitScores, default_multiple
from fairdeploy.runs.stages.groups import group_scores, removed_units
from fairdeploy.settings.budgets import parse_budgets
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.surgery.equivalence import PROOF_LIMIT, prove, relative_error
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.own_class.own_class_check import own_class_error
from fairdeploy.surgery.removal import remove_units
from tests.conformance.image_response import MIN_RESPONSE, noise_gain, response
from tests.conformance.output_layers import tensors_in
from tests.conformance.rows import Row
from tests.conformance.zoo import ZooModel, build, examples

BUDGET = 0.5
PARITY_LIMIT = 1e-4
ONNX_BATCHES = (1, 3)
MAX_GAIN = 2000.0
"""A network that amplifies the image's noise by more would turn rounding into broken laws."""
_ROUNDING = 0.5
_NUM_FROZEN = 3

Checkpoint = Callable[[Row], None]


class BrokenLawError(AssertionError):
    """The model cannot go on."""


@dataclass(slots=True)
class Course:
    """One model's way through the stages; ``row`` fills as it goes."""

    row: Row
    checkpoint: Checkpoint

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note where we are and how many CPU seconds it took."""
        self.row.stage = name
        self.checkpoint(self.row)
        started = time.process_time()
        try:
            yield
        finally:
            self.row.seconds_by_stage[name] = round(time.process_time() - started, 3)

    def require(self, holds: bool, failure: str) -> None:
        """Write the first broken law down; go on."""
        if not holds and not self.row.failure:
            self.row.failed_stage, self.row.failure = self.row.stage, failure


def check(
    model: ZooModel,
    seed: int = 0,
    checkpoint: Checkpoint = lambda row: None,
    *,
    with_onnx: bool = True,
) -> Row:
    """Run one model through everything; failures are part of the row.

    Without ONNX, which takes most of the time, a row never counts as passed.
    """
    row = Row(model.name, model.family, input_shapes=model.shapes)
    course, started = Course(row, checkpoint), time.perf_counter()
    try:
        _check(model, seed, course, with_onnx)
        row.stage = "done" if with_onnx else "done but ONNX"
    except Exception as error:  # the table shows what broke
        if not row.failure:
            row.failed_stage, row.failure = row.stage, describe(error)
        if not isinstance(error, BrokenLawError):
            traceback.print_exc(file=sys.stderr)
    row.seconds = round(time.perf_counter() - started, 1)
    return row


def describe(error: BaseException) -> str:
    """Kind and first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _check(model: ZooModel, seed: int, course: Course, with_onnx: bool) -> None:
    row = course.row
    with course.stage("build"):
        network, inputs = build(model, seed), examples(model, seed)
        _require_response(network, inputs, course)
    with course.stage("capture"):
        captured = capture(network, inputs)
    row.has_dynamic_batch = captured.has_dynamic_batch
    row.num_nodes = len(captured.module.graph.nodes)
    row.num_params = _num_params(captured.module)
    with course.stage("unit graph"):
        graph = unit_graph_from_capture(captured, allow_norm_coupled=model.allow_norm_coupled)
    row.num_groups, row.num_units = len(graph.groups), graph.num_units
    removed, predicted = _choose_units(graph, seed, course)
    with course.stage("surgery"):
        shrunk = remove_units(graph, removed).module
    _require_size(shrunk, predicted, course)
    with course.stage("proof"):
        proof = prove(graph, shrunk, removed, seed=seed)
    row.proof, row.proof_precision = proof.max_relative_error, proof.precision
    row.num_coupled_norms = proof.num_coupled_norms
    row.norm_coupled_difference = proof.norm_coupled_difference
    course.require(row.proof <= PROOF_LIMIT, f"zeroed differs from shrunk by {row.proof:.1e}")
    with course.stage("own class"):
        own, row.own_class_reason = rebuild_own_class(network, graph, shrunk)
        row.own_class = type(own).__name__ if own is not None else ""
        row.num_graph_parts = len(graph_parts(own)) if own is not None else 0
        if own is not None:
            _require_same(own, graph, shrunk, course)
    if not with_onnx:
        return
    with course.stage("onnx"):
        _compare_onnx(shrunk, model, graph, seed, course)


def _require_response(network: nn.Module, inputs: tuple[Tensor, ...], course: Course) -> None:
    """Outputs must be finite and depend on the image, and not on rounding.

    No later comparison means anything otherwise: then the zoo's weights have to be drawn better.
    """
    with torch.no_grad():
        outputs = tensors_in(network(*inputs))
    course.require(
        all(bool(output.isfinite().all()) for output in outputs), "outputs are not finite"
    )
    found = response(outputs)
    course.require(found >= MIN_RESPONSE, f"outputs hardly depend on the image: {found:.1e}")
    gain = noise_gain(network, inputs)
    course.require(gain <= MAX_GAIN, f"these random weights amplify noise by {gain:.0f}")


def _choose_units(graph: UnitGraph, seed: int, course: Course) -> tuple[NDArray[np.bool_], float]:
    """Random scores, grouped as ``shrink`` groups them, at half the parameters or the least.

    Returns:
        Mask of the units that go, and how many parameters should be left.
    """
    row = course.row
    with course.stage("search"):
        costs = CostModel(graph.cost_terms, len(graph.groups))
        random = np.random.default_rng(seed)
        scores = UnitScores(random.random(graph.num_units), random.random(graph.num_units), 2, 0)
        groups = group_scores(graph, scores, default_multiple(load_profile("cpu")))
        if not groups:
            raise BrokenLawError("nothing can be removed")
        smallest, original = reachable_range(groups, costs.costs)["params"]
        row.reachable = smallest / original
        assert row.num_params is not None
        course.require(
            abs(original - row.num_params) < _ROUNDING,
            f"the cost model counts {original:,.0f} parameters, the graph has {row.num_params:,}",
        )
        # a percentage that is just above what can be reached
        row.budget = max(BUDGET, math.ceil(row.reachable * 1e4) / 1e4)
        if row.reachable > BUDGET:
            row.frozen = _largest_frozen(graph)
        if row.budget >= 1.0:
            raise BrokenLawError("nothing can be removed")
        allocation = search(groups, costs.costs, parse_budgets([f"params={row.budget:.4%}"]))
        _require_tight(groups, costs, allocation, original, course)
    return removed_units(graph, groups, allocation), allocation.costs["params"]


def _require_tight(
    groups: tuple[GroupScores, ...],
    costs: CostModel,
    allocation: Allocation,
    original: float,
    course: Course,
) -> None:
    """No block of removed units may fit back into the budget."""
    assert course.row.budget is not None
    kept = np.array([len(group.u) - len(allocation.removed[group.name]) for group in groups])
    for index, group in enumerate(groups):
        if kept[index] == len(group.u):
            continue
        more = kept.copy()
        more[index] = min(kept[index] + group.step, len(group.u))
        share = float(costs.costs(more[None])["params"][0]) / original
        course.require(
            share > course.row.budget * (1 - 1e-9), f"a block of '{group.name}' could stay"
        )


def _require_size(shrunk: fx.GraphModule, predicted: float, course: Course) -> None:
    row = course.row
    assert row.num_params is not None
    assert row.budget is not None
    num_left = _num_params(shrunk)
    row.kept = num_left / row.num_params
    course.require(
        abs(num_left - predicted) < _ROUNDING,
        f"{num_left:,} parameters are left, the cost model says {predicted:,.0f}",
    )
    course.require(row.kept < 1.0, "nothing went")
    course.require(row.kept <= row.budget + 1e-9, f"{row.kept:.2%} kept, budget {row.budget:.2%}")


def _require_same(own: nn.Module, graph: UnitGraph, shrunk: fx.GraphModule, course: Course) -> None:
    """The class that came back must give what the shrunk network gives."""
    error = own_class_error(own, graph, shrunk, graph.example_inputs)
    course.require(error <= PROOF_LIMIT, f"the class that came back differs by {error:.1e}")


def _compare_onnx(
    shrunk: fx.GraphModule, model: ZooModel, graph: UnitGraph, seed: int, course: Course
) -> None:
    """Export, and compare with torch on images that the export has not seen."""
    exporter, profile = get_exporter("onnx"), load_profile("cpu")
    is_dynamic = graph.has_dynamic_batch
    inputs = graph.example_inputs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exporter.export(shrunk, inputs, path, dynamic_batch=is_dynamic, metadata={})
        runner = exporter.open(path, profile)
        for batch in ONNX_BATCHES if is_dynamic else (graph.inputs.batch,):
            images = examples(model, seed + 1, batch)
            outputs = runner.run(tuple(image.numpy() for image in images))
            with torch.no_grad():
                expected = tensors_in(shrunk(*images))
            found = [torch.from_numpy(np.asarray(output)) for output in outputs]
            error = relative_error(found, expected)
            course.row.onnx[str(batch)] = error
            course.require(error <= PARITY_LIMIT, f"ONNX differs by {error:.1e} at batch {batch}")
        runner.close()


def _largest_frozen(graph: UnitGraph) -> tuple[str, ...]:
    groups = sorted(graph.frozen_groups, key=lambda group: -group.num_params)[:_NUM_FROZEN]
    return tuple(f"{group.num_params:,} parameters: {group.reason}" for group in groups)


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
