"""Fairdeploy's networks at given MACs, by removal signal and by repair.

``reconstruction+blocks`` lets whole residual blocks go too, as ``--blocks`` does.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import GroupScores, ImageSet, TrainingImages, UnitScores
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.judgement import Judge, divided
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.runs.stages.groups import group_scores, removed_units
from fairdeploy.scoring import as_unit_scores, measure_signals
from fairdeploy.scoring.branches import with_branch_scores
from fairdeploy.scoring.signals import Signals
from fairdeploy.settings.budgets import parse_budgets
from fairdeploy.surgery.removal import remove_units
from tests.benchmarks.accuracy_case import CLOSE_MACS, Case
from tests.benchmarks.cifar_networks import as_it_takes_them

WITH_BLOCKS = "+blocks"
SIGNALS = ("wasserstein", "reconstruction", f"reconstruction{WITH_BLOCKS}")
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
        case, graph = self._case, self._graphs[signal.endswith(WITH_BLOCKS)]
        removed = self._removed_units(signal, share)
        shrunk = remove_units(graph, removed).module
        images = (case.calibration,)
        if repair == "batchnorm":
            reestimate_batchnorm(shrunk, images)
        if repair == "least-squares":
            fit_least_squares(graph, shrunk, removed, images, seed=case.seed)
        if repair == "distil":
            learned, held_out = divided(ImageSet(case.calibration, None, "none"))
            judge = Judge(graph, held_out)
            fit_least_squares(graph, shrunk, removed, learned.images, seed=case.seed)
            distil(
                graph, shrunk, removed, learned.images, judge, more=self._further, seed=case.seed
            )
        return shrunk

    @cached_property
    def _graphs(self) -> tuple[UnitGraph, UnitGraph]:
        """Without and with residual blocks among the units; the other units come first in both."""
        module, images = self._case.module, (self._case.calibration[:2],)
        return build_unit_graph(module, images), build_unit_graph(module, images, blocks=True)

    @cached_property
    def _further(self) -> TrainingImages:
        """Images to distil from; their labels are left out."""
        images = self._case.images.training

        def fetch(places: NDArray[np.int64]) -> ImageSet:
            return ImageSet(as_it_takes_them(images[places], self._case.name), None, "none")

        return TrainingImages(len(images), False, fetch)

    @cached_property
    def _images(self) -> ImageSet:
        case, count = self._case, self._num_scoring
        labels = case.images.calibration_labels[:count]
        return ImageSet(case.calibration[:count], labels, "given")

    @cached_property
    def _measured(self) -> Signals:
        names: set[Any] = {signal.removesuffix(WITH_BLOCKS) for signal in self._signals}
        return measure_signals(
            self._graphs[0], self._images, [*names, "taylor"],
            seed=self._case.seed, num_projections=self._num_projections,
        )  # fmt: skip

    @cached_property
    def _of_blocks(self) -> UnitScores:
        """With zeros in the places of all other units."""
        graph = self._graphs[1]
        blank = UnitScores(np.zeros(graph.num_units), np.zeros(graph.num_units), 0, 0)
        return with_branch_scores(graph, self._images, blank)

    def _scores(self, signal: str) -> UnitScores:
        name: Any = signal.removesuffix(WITH_BLOCKS)
        plain = as_unit_scores(self._graphs[0], self._measured, name, "taylor")
        if not signal.endswith(WITH_BLOCKS):
            return plain
        u, r = self._of_blocks.u.copy(), self._of_blocks.r.copy()
        u[: len(plain.u)], r[: len(plain.r)] = plain.u, plain.r
        return UnitScores(u, r, plain.num_classes, plain.num_unmeasured)

    def _removed_units(self, signal: str, share: float) -> NDArray[np.bool_]:
        if (signal, share) not in self._removed:
            graph = self._graphs[signal.endswith(WITH_BLOCKS)]
            groups = group_scores(graph, self._scores(signal), self._multiple)
            self._removed[signal, share] = self._closest(graph, groups, share)
        return self._removed[signal, share]

    def _closest(
        self, graph: UnitGraph, groups: tuple[GroupScores, ...], share: float
    ) -> NDArray[np.bool_]:
        """Budgets are met from below, and by a count that may differ: ask until it is near."""
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
