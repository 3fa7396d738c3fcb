"""The stage that removes units, proves it, and tells what of the user's class comes back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.inputs.random_state import seeded_random_state
from fairdeploy.records import LoadedModel, ProofResult
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.settings.run import RunSettings
from fairdeploy.surgery.equivalence import prove, require_proof
from fairdeploy.surgery.own_class.graph_part import graph_parts
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from fairdeploy.surgery.steadiness import require_steady


def check_answers(model: LoadedModel, graph: UnitGraph, seed: int, watch: Stopwatch) -> None:
    """Refuse a network whose answer for an image hangs on more than the image.

    Raises:
        ModelError: Says which call is to blame.
    """
    with watch.stage("check answers"), seeded_random_state(seed):
        require_steady(model.module, graph, seed)


def remove(
    model: LoadedModel,
    graph: UnitGraph,
    removed: NDArray[np.bool_],
    settings: RunSettings,
    watch: Stopwatch,
) -> tuple[fx.GraphModule, ProofResult, str]:
    """The shrunk network, its proof, and why the user's class can't be had (empty if it can)."""
    with watch.stage("remove and prove") as stage:
        shrunk, proof = remove_and_prove(graph, removed, settings.model.seed)
        if proof.norm_coupled_difference is not None:
            watch.warn(coupled_norms_warning(proof))
        parts: tuple[str, ...] = ()
        reason = "the model came as an exported program"
        if model.is_user_class:
            own, reason = rebuild_own_class(model.module, graph, shrunk)
            if own is not None:
                blocks = {branch.name for branch in graph.branches_gone(removed)}
                parts = tuple(path for path in graph_parts(own) if path not in blocks)
        stage.note(f"{_what_went(graph, removed)} gone, error {proof.max_relative_error:.1e}")
    if parts:
        watch.warn(
            f"{len(parts)} modules of your class have sizes built into their code, or weights "
            f"that they compute at each call; they come back as pieces of the graph, for the "
            f"captured image size: {', '.join(parts[:3])}"
            f"{', …' if len(parts) > 3 else ''}"
        )
    return shrunk, proof, reason


def _what_went(graph: UnitGraph, removed: NDArray[np.bool_]) -> str:
    num_blocks = len(graph.branches_gone(removed))
    units = f"{int(removed.sum()) - num_blocks:,} units"
    return f"{units} and {num_blocks} of {len(graph.branches)} blocks" if graph.branches else units


def remove_and_prove(
    graph: UnitGraph, removed: NDArray[np.bool_], seed: int
) -> tuple[fx.GraphModule, ProofResult]:
    """The shrunk network and its proof.

    Raises:
        ParityError: The proof failed.
    """
    shrunk = remove_units(graph, removed).module
    proof = prove(graph, shrunk, removed, seed=seed)
    require_proof(proof)
    return shrunk, proof


def coupled_norms_warning(proof: ProofResult) -> str:
    """What is not exact, and by how much."""
    return (
        f"{proof.num_coupled_norms} layer norms take their statistics over fewer channels "
        "(--allow-norm-coupled), which is not exact: before repair the outputs differ by "
        f"{proof.norm_coupled_difference:.1e} of the largest output from the original with the "
        "removed units zeroed; the proof covers everything else"
    )
