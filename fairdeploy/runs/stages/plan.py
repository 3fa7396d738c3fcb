"""The stages that lead to a plan: score every unit; the plan as a file; what rounding did to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fairdeploy.allocation.pairing import places_in_groups
from fairdeploy.allocation.search import search
from fairdeploy.files import cache_folder
from fairdeploy.graph.graph_text import graph_tensors, graph_text
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.inputs.fingerprint import sha256_of_images, sha256_of_tensors
from fairdeploy.records import (
    Allocation,
    DataSplits,
    GroupRounding,
    GroupScores,
    LoadedModel,
    Rounding,
    UnitScores,
)
from fairdeploy.runs.problem import Planned
from fairdeploy.runs.run import Run
from fairdeploy.runs.stages.groups import method_warnings
from fairdeploy.scoring.cache import cached_scores, scores_key
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.settings.run import RunSettings
from fairdeploy.surgery.plan import Plan

SCORES_KEPT = "the scores are kept, the same command does not score again"
"""What is said to who interrupts a run after that."""


def score(run: Run[RunSettings], graph: UnitGraph, data: DataSplits) -> UnitScores:
    """U and R of all units, or what takes their places: from the cache, or in one pass."""
    method, watch = run.settings.method, run.watch
    for text in method_warnings(method):
        watch.warn(text)
    with watch.stage("score units", total=len(data.calibration)) as stage:
        return cached_scores(
            cache_folder(),
            _scores_key(graph, data, run.settings),
            graph.num_units,
            lambda: score_units(
                graph,
                data.calibration,
                seed=run.seed,
                signal=method.signal,
                protect=method.protect,
                progress=stage.advance,
            ),
            tell_found=lambda: stage.note("from the cache"),
        )


def _scores_key(graph: UnitGraph, data: DataSplits, settings: RunSettings) -> str:
    """Everything that scores hang on: what is computed, on what, and what may go."""
    units = [(group.name, group.blocks.tolist()) for group in graph.groups]
    return scores_key(
        sha256_of_tensors(graph_tensors(graph.module)),
        sha256_of_images(data.calibration),
        graph=graph_text(graph.module), units=json.dumps(units), attention=graph.attention,
        norms=graph.allow_norm_coupled, branches=" ".join(b.name for b in graph.branches),
        inputs=" ".join(map(str, graph.inputs.specs)), output=graph.outputs.main,
        task=graph.outputs.task.cache_key,
        batch=graph.inputs.batch if graph.inputs.is_batch_fixed else 0,
        signal=settings.method.signal, protect=settings.method.protect,
        seed=settings.model.seed, device=graph.device.type,
        versions=f"torch {torch.__version__}, numpy {np.__version__}",
    )  # fmt: skip


def make_plan(
    model: LoadedModel,
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    allocation: Allocation,
) -> Plan:
    """The plan that ``plan.json`` holds."""
    removed = places_in_groups(groups, allocation.removed)
    return Plan(
        model_name=model.name,
        model_sha256=model.sha256,
        input_shape=model.preprocessing.shape,
        tolerance=allocation.tolerance,
        attention=graph.attention,
        allow_norm_coupled=graph.allow_norm_coupled,
        blocks=bool(graph.branches),
        group_sizes={group.name: group.blocks.size for group in graph.groups},
        removed={name: units for name, units in removed.items() if units},
        inputs=model.inputs,
        fixed_batch=graph.inputs.batch if graph.inputs.is_batch_fixed else None,
    )


def rounding_outcome(planned: Planned, scores: UnitScores) -> Rounding | None:
    """The plan beside one for the same budgets with any counts; None if any count was allowed.

    Args:
        planned: The plan, and what it was held to.
        scores: Of all units.
    """
    problem, allocation, costs = planned.problem, planned.allocation, planned.costs
    multiple = problem.multiple
    if multiple.number == 1:
        return None
    free = problem.without_rounding().groups(scores)
    unrounded = search(free, costs.costs, planned.budgets)
    return Rounding(
        multiple=multiple.number,
        source=multiple.source,
        choice=multiple.choice,
        groups=tuple(
            GroupRounding(
                name=group.name,
                units=len(group.u),
                kept=_kept(group, allocation),
                kept_unrounded=_kept(group, unrounded),
            )
            for group in planned.groups
        ),
        costs=_plain(allocation.costs),
        costs_unrounded=_plain(unrounded.costs),
        r_mass=_r_mass(planned.groups, allocation),
        r_mass_unrounded=_r_mass(free, unrounded),
    )


def _kept(group: GroupScores, allocation: Allocation) -> int:
    return len(group.u) - len(allocation.removed.get(group.name, ()))


def _r_mass(groups: Sequence[GroupScores], allocation: Allocation) -> float:
    return float(
        sum(group.r[list(allocation.removed.get(group.name, ()))].sum() for group in groups)
    )


def _plain(costs: Mapping[str, float]) -> dict[str, float]:
    return {metric: float(cost) for metric, cost in costs.items()}
