"""U and R of all units from one pass over the calibration images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import DataError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet, UnitScores
from fairdeploy.scoring.collector import collect
from fairdeploy.scoring.reconstruction import r_scores
from fairdeploy.scoring.utilization import class_members, u_scores

DEFAULT_PROJECTIONS = 64


def score_units(
    graph: UnitGraph,
    images: ImageSet,
    *,
    seed: int,
    num_projections: int = DEFAULT_PROJECTIONS,
    progress: Callable[[int], None] | None = None,
) -> UnitScores:
    """Score every unit; the graph's tensors and the user's model stay exactly as they were.

    Args:
        images: With labels, or without: then the model's own predictions are the classes.
        seed: Of the random directions; same seed, same scores.
        num_projections: Random directions per unit; wide networks get fewer.
        progress: Called with the number of images done, batch by batch.

    Raises:
        DataError: There are no images, or a label does not fit the model's outputs.
    """
    if len(images) == 0:
        raise DataError("no images to score with; give at least one image of two classes each")
    collected = collect(
        graph, images, seed=seed, num_projections=num_projections, progress=progress
    )
    members = class_members(collected.labels, collected.top_logits)
    u, is_measured = u_scores(graph, collected.store, members)
    r = r_scores(graph, collected.products)
    u = _with_ranks_where_unmeasured(graph, u, is_measured, r)
    return UnitScores(
        u=u,
        r=r,
        num_classes=len(members),
        num_unmeasured=int((~is_measured).sum()),
    )


def _with_ranks_where_unmeasured(
    graph: UnitGraph,
    u: NDArray[np.float64],
    is_measured: NDArray[np.bool_],
    r: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Give units that no layer's output shows their R rank in the group, scaled to mean 1.

    The removal order then follows R alone, so the tolerance protects exactly what it should.
    """
    filled = u.copy()
    for group in graph.groups:
        missing = ~is_measured[group.units]
        if missing.any():
            ranks = np.argsort(np.argsort(r[group.units], kind="stable"), kind="stable")
            by_rank = 2.0 * (ranks + 0.5) / len(ranks)
            filled[group.units[missing]] = by_rank[missing]
    return filled
