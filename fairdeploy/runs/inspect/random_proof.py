"""``inspect --prove``: remove about half of every group at random and prove it, without data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.multiples import nearest_kept
from fairdeploy.allocation.restrictions import GroupLimit
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import LoadedModel, ProofResult
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.groups import group_sizes
from fairdeploy.surgery.equivalence import PROOF_LIMIT, prove
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units

BLOCK_SHARE = 0.5
_TIMED = ("unit graph", "remove", "prove", "own class")


def random_removal(
    graph: UnitGraph, limits: Sequence[GroupLimit], seed: int
) -> dict[str, tuple[int, ...]]:
    """About half of the units of every group, chosen at random within its limits.

    So are residual blocks, where they may go. From each block of a balanced group others go.

    Returns:
        Group name to places in ``Group.units``, ascending; groups that lose none are left out.
    """
    sizes = group_sizes(graph)
    most = np.array([limit.max_removed for limit in limits], dtype=np.int64)
    steps = np.array([limit.step for limit in limits], dtype=np.int64)
    kept = nearest_kept(sizes - np.minimum(sizes // 2, most), sizes, most, steps)
    generator = np.random.default_rng(seed)
    chosen = {
        group.name: tuple(
            place
            for block in range(group.num_blocks)
            for place in sorted(_shuffled(generator, block, group.size)[count:].tolist())
        )
        for group, count in zip(graph.groups, kept.tolist(), strict=True)
        if count < group.size
    }
    for group, limit in zip(graph.groups, limits, strict=True):
        if group.is_branch and limit.max_removed and generator.random() < BLOCK_SHARE:
            chosen[group.name] = (0,)
    return chosen


def _shuffled(generator: np.random.Generator, block: int, size: int) -> NDArray[np.int64]:
    """The places of one block in random order."""
    return generator.permutation(size).astype(np.int64) + block * size


def prove_random_removal(
    model: LoadedModel,
    graph: UnitGraph,
    limits: Sequence[GroupLimit],
    seed: int,
    watch: Stopwatch,
) -> dict[str, Any]:
    """Remove, compare with the zeroed original, and try to rebuild the user's class.

    Returns:
        The ``proof`` of the document of ``inspect``; ``problem`` says why it could not be made.
    """
    chosen = random_removal(graph, limits, seed)
    removed = graph.removed_mask(chosen)
    shrunk: fx.GraphModule | None = None
    result, problem = ProofResult(float("inf"), PROOF_LIMIT, 0, ()), ""
    own_class_problem = "the removal is not proved"
    with watch.stage("remove") as stage:
        try:
            shrunk = remove_units(graph, removed).module
        except Exception as failure:  # a bug of ours, which is what the user wants to know of
            problem = f"the removal fails: {_first_line(failure)}"
        stage.note(f"{int(removed.sum()):,} of {graph.num_units:,} units")
    with watch.stage("prove") as stage:
        try:
            result = prove(graph, shrunk, removed, seed=seed) if shrunk else result
        except Exception as failure:
            problem = f"the shrunk network fails: {_first_line(failure)}"
        stage.note(f"error {result.max_relative_error:.1e}")
    if shrunk is not None and result.passed:
        own_class_problem = _own_class_problem(model, graph, shrunk, watch)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    sizes = group_sizes(graph)
    gone = [len(chosen.get(group.name, ())) // group.num_blocks for group in graph.groups]
    kept = sizes - np.array(gone, dtype=np.int64)
    error = result.max_relative_error
    return {
        "passed": result.passed,
        "max_relative_error": error if math.isfinite(error) else None,
        "limit": result.limit,
        "num_inputs": result.num_inputs,
        "batch_sizes": list(result.batch_sizes),
        "problem": problem,
        "num_removed_units": int(removed.sum()),
        "params_left": costs.cost(kept)["params"],
        "nodes": sum(node.op == "call_function" for node in graph.module.graph.nodes),
        "seconds": {name: watch.seconds[name] for name in _TIMED if name in watch.seconds},
        "own_class": {"rebuilt": not own_class_problem, "problem": own_class_problem or None},
    }


def _own_class_problem(
    model: LoadedModel, graph: UnitGraph, shrunk: fx.GraphModule, watch: Stopwatch
) -> str:
    """Why the user's own class does not come back; empty if it does."""
    if not model.is_user_class:
        return "the model came as an exported program"
    with watch.stage("own class") as stage:
        _, problem = rebuild_own_class(model.module, graph, shrunk)
        stage.note("no" if problem else "yes")
    return problem


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
