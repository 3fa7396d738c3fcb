"""Fairdeploy's networks at given MACs, by removal signal and by repair."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.allocation.budget import parse_budgets
from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import GroupScores, ImageSet
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.distillation import distil
from fairdeploy.recovery.least_squares import fit_least_squares
from fairdeploy.recovery.unlabelled_images import not_held_out
from fairdeploy.scored_groups import group_scores, removed_units
from fairdeploy.scoring import as_unit_scores, measure_signals
from fairdeploy.scoring.signals import Signals
from fairdeploy.surgery.removal import remove_units
from tests.benchmarks.accuracy_case import CLOSE_MACS, Case

SIGNALS = ("wasserstein", "reconstruction")
REPAIRS = ("none", "batchnorm", "least-squares", "distil")
_MAX_TRIES = 5


class OurPruner:
    """Scores once, for all signals, when the first network is wanted."""

    def __init__(
        self, case: Case, signals: list[Any], multiple: int, num_scoring: int, num_projections: int
    ) -> None:
        """Nothing is computed yet.

        Args:
            case: Network and images.
            signals: Of ``SIGNALS``.
            multiple: What channel counts are rounded to.
            num_scoring: How many of the calibration images say what goes; 0 for all.
            num_projections: Random directions per unit.
        """
        self._case, self._signals = case, signals
        self._multiple, self._num_projections = multiple, num_projections
        self._num_scoring = num_scoring or len(case.calibration)
        self._removed: dict[tuple[str, float], NDArray[np.bool_]] = {}

    def network(self, signal: Any, share: float, repair: str) -> fx.GraphModule:
        """At this share of the MACs, repaired by one of ``REPAIRS``."""
        case, graph = self._case, self._graph
        removed = self._removed_units(signal, share)
        shrunk = remove_units(graph, removed).module
        images = (case.calibration,)
        if repair == "batchnorm":
            reestimate_batchnorm(shrunk, images)
        if repair == "least-squares":
            fit_least_squares(graph, shrunk, removed, images, seed=case.seed)
        if repair == "distil":
            fit_least_squares(graph, shrunk, removed, not_held_out(images), seed=case.seed)
            distil(graph, shrunk, removed, images, seed=case.seed)
        return shrunk

    @cached_property
    def _graph(self) -> UnitGraph:
        return build_unit_graph(self._case.module, (self._case.calibration[:2],))

    @cached_property
    def _measured(self) -> Signals:
        case = self._case
        count = self._num_scoring
        labels = case.images.calibration_labels[:count]
        images = ImageSet(case.calibration[:count], labels, "given")
        return measure_signals(
            self._graph, images, [*self._signals, "taylor"],
            seed=case.seed, num_projections=self._num_projections,
        )  # fmt: skip

    def _removed_units(self, signal: Any, share: float) -> NDArray[np.bool_]:
        if (signal, share) not in self._removed:
            scores = as_unit_scores(self._graph, self._measured, signal, "taylor")
            groups = group_scores(self._graph, scores, self._multiple)
            self._removed[signal, share] = self._closest(groups, share)
        return self._removed[signal, share]

    def _closest(self, groups: tuple[GroupScores, ...], share: float) -> NDArray[np.bool_]:
        """Budgets are met from below, and by a count that may differ: ask until it is near."""
        graph = self._graph
        costs = CostModel(graph.cost_terms, len(groups))
        asked = share
        found: list[tuple[float, int, NDArray[np.bool_]]] = []
        for _ in range(_MAX_TRIES):
            allocation = search(groups, costs.costs, parse_budgets([f"macs={asked:.3%}"]))
            removed = removed_units(graph, groups, allocation)
            got = self._case.share_of_macs(remove_units(graph, removed).module)
            found.append((abs(got - share), len(found), removed))
            if abs(got - share) <= CLOSE_MACS / 2:
                break
            asked = min(max(asked + share - got, 0.01), 0.999)
        return min(found)[2]
