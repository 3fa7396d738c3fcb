"""U and R of all units from one pass over the calibration images."""

from __future__ import annotations

from collections.abc import Callable

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet, ProtectName, SignalName, UnitScores
from fairdeploy.scoring.branches import with_branch_scores
from fairdeploy.scoring.signals import DEFAULT_PROJECTIONS, as_unit_scores, measure_signals


def score_units(
    graph: UnitGraph,
    images: ImageSet,
    *,
    seed: int,
    signal: SignalName = "wasserstein",
    protect: ProtectName = "taylor",
    num_projections: int = DEFAULT_PROJECTIONS,
    progress: Callable[[int], None] | None = None,
) -> UnitScores:
    """Score every unit; the graph's tensors and the user's model stay exactly as they were.

    For several pairs of signals see ``measure_signals``, which runs one pass for all of them.

    Args:
        graph: The network.
        images: With labels, or without: then the model's own predictions are the classes.
        seed: Of the random directions; same seed, same scores.
        signal: What is removed by; see ``signals``.
        protect: What protects.
        num_projections: Random directions per unit; wide networks get fewer.
        progress: Called with the number of images done, batch by batch.

    Raises:
        DataError: There are no images, or a label does not fit the model's outputs.
        UsageError: The network does not have what a signal reads.
    """
    names: set[SignalName] = {signal}
    if protect != "none":
        names.add(protect)
    signals = measure_signals(
        graph, images, names, seed=seed, num_projections=num_projections, progress=progress
    )
    scores = as_unit_scores(graph, signals, signal, protect)
    return with_branch_scores(graph, images, scores)
