"""The stage that removes units, proves it, and tells what of the user's class comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.inputs.random_state import seeded_random_state
from fairdeploy.records import LoadedModel, ProofResult
from fairdeploy.recovery.training.best_weights import load_state
from fairdeploy.runs.problem import Planned
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.run import Run
from fairdeploy.settings.run import RunSettings
from fairdeploy.surgery.equivalence import prove, require_proof
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from fairdeploy.surgery.steadiness import require_steady


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A network without the units that went; repair changes its module."""

    graph: UnitGraph
    """Of the original."""
    module: fx.GraphModule
    removed: NDArray[np.bool_]
    """Which units went, shape [num_units]."""
    proof: ProofResult
    own_class_problem: str = ""
    """Why the user's class can't be had; empty if it can, or nobody asked."""


def check_answers(model: LoadedModel, graph: UnitGraph, seed: int, watch: Stopwatch) -> None:
    """Refuse a network whose answer for an image hangs on more than the image.

    Raises:
        ModelError: Says which call is to blame.
    """
    with watch.stage("check answers"), seeded_random_state(seed):
        require_steady(model.module, graph, seed)


def remove(run: Run[RunSettings], model: LoadedModel, planned: Planned) -> Shrunk:
    """Remove what the plan says, prove it, and see whether the user's class comes back.

    Raises:
        ParityError: The proof failed.
    """
    graph, removed, watch = planned.problem.graph, planned.removed, run.watch
    with watch.stage("remove and prove") as stage:
        shrunk = remove_and_prove(graph, removed, run.seed)
        if shrunk.proof.norm_coupled_difference is not None:
            watch.warn(coupled_norms_warning(shrunk.proof))
        parts: tuple[str, ...] = ()
        reason = "the model came as an exported program"
        if model.is_user_class:
            own, reason = rebuild_own_class(model.module, graph, shrunk.module)
            if own is not None:
                blocks = {branch.name for branch in graph.branches_gone(removed)}
                parts = tuple(path for path in graph_parts(own) if path not in blocks)
        stage.note(f"{_count(graph, removed)} gone, error {shrunk.proof.max_relative_error:.1e}")
    if parts:
        watch.warn(
            f"{len(parts)} modules of your class have sizes built into their code, or weights "
            f"that they compute at each call; they come back as pieces of the graph, for the "
            f"captured image size: {', '.join(parts[:3])}"
            f"{', …' if len(parts) > 3 else ''}"
        )
    if planned.tensors is not None:
        load_state(shrunk.module, dict(planned.tensors))
    return replace(shrunk, own_class_problem=reason)


def _count(graph: UnitGraph, removed: NDArray[np.bool_]) -> str:
    num_blocks = len(graph.branches_gone(removed))
    units = f"{int(removed.sum()) - num_blocks:,} units"
    return f"{units} and {num_blocks} of {len(graph.branches)} blocks" if graph.branches else units


def remove_and_prove(graph: UnitGraph, removed: NDArray[np.bool_], seed: int) -> Shrunk:
    """The shrunk network and its proof.

    Raises:
        ParityError: The proof failed.
    """
    module = remove_units(graph, removed).module
    proof = prove(graph, module, removed, seed=seed)
    require_proof(proof)
    return Shrunk(graph, module, removed, proof)


def coupled_norms_warning(proof: ProofResult) -> str:
    """What is not exact, and by how much."""
    return (
        f"{proof.num_coupled_norms} layer norms take their statistics over fewer channels "
        "(--allow-norm-coupled), which is not exact: before repair the outputs differ by "
        f"{proof.norm_coupled_difference:.1e} of the largest output from the original with the "
        "removed units zeroed; the proof covers everything else"
    )
