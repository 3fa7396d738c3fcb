"""What is to be solved: a network, its costs, what must stay, and budgets; and the plan found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.restrictions import (
    GroupLimit,
    Rule,
    held_groups,
    rules_of,
    rules_without_an_option,
)
from fairdeploy.allocation.search import check_reachable
from fairdeploy.files import cache_folder
from fairdeploy.graph.residual_branches import blocks_hint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    Allocation,
    AllocationRule,
    Budget,
    DataSplits,
    DropGate,
    GroupScores,
    LatencySearch,
    LoadedModel,
    TargetProfile,
    TensorNames,
    UnitScores,
)
from fairdeploy.records.input_specs import VaryingSize
from fairdeploy.runs.run import Run
from fairdeploy.runs.stages.groups import group_scores, group_sizes, limits_of, removed_units
from fairdeploy.runs.stages.multiples import Multiple, resolve_multiple, with_multiple
from fairdeploy.settings.budgets import latency_apart
from fairdeploy.settings.run import RunSettings, ShrinkSettings

BUDGET_INTERVAL = 0.02
"""Width of the 95 % interval at which a race for a budget stops: it is hit within 3 %."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Which units may go, in what steps, and what the rest may cost."""

    graph: UnitGraph
    costs: CostModel
    """Of all that is counted."""
    rules: tuple[Rule, ...]
    """What the user keeps."""
    multiple: Multiple
    """What channel counts are multiples of."""
    budgets: tuple[Budget, ...]
    """Empty where a run looks for the smallest network, or for many."""
    allocation: AllocationRule
    """How what goes is shared out."""
    profile: TargetProfile
    """The target, with the multiple that it likes, and races as exact as the budgets need."""
    names: TensorNames
    """Of the files' inputs, outputs and axes."""

    @classmethod
    def of(
        cls,
        run: Run[RunSettings],
        model: LoadedModel,
        graph: UnitGraph,
        budgets: tuple[Budget, ...] = (),
        *,
        may_measure: bool,
    ) -> Problem:
        """The problem that the settings pose for a network.

        Args:
            run: Target and restrictions.
            model: As loaded.
            graph: As captured.
            budgets: What may stay.
            may_measure: Whether it is worth measuring which channel counts are fast.

        Raises:
            BudgetError: Even the smallest plan that is allowed costs more.
        """
        restrictions, profile = run.settings.restrictions, run.profile
        names = tensor_names(graph, bool(model.inputs))
        rules, costs = rules_of(graph, restrictions), CostModel(graph.cost_terms, len(graph.groups))
        rule = run.settings.method.allocation
        free = cls(graph, costs, rules, Multiple(1, "budget"), budgets, rule, profile, names)
        free.refuse_unreachable()
        multiple = resolve_multiple(
            profile, restrictions.round_to, run.exporter, cache_folder(), run.watch,
            may_measure=may_measure,
        )  # fmt: skip
        if free.latency is not None:
            multiple = multiple.where_latency_decides()
            interval = min(profile.ratio_interval, BUDGET_INTERVAL)
            profile = replace(profile, ratio_interval=interval)
        problem = replace(free, multiple=multiple, profile=with_multiple(profile, multiple))
        problem.rounded_to(multiple.finest).refuse_unreachable()
        return problem

    @property
    def counted(self) -> tuple[Budget, ...]:
        """Budgets of all but latency."""
        return latency_apart(self.budgets)[0]

    @property
    def latency(self) -> Budget | None:
        """The budget of latency, if there is one."""
        return latency_apart(self.budgets)[1]

    @property
    def original_costs(self) -> dict[str, float]:
        """Of the whole network, by metric."""
        return self.costs.cost(group_sizes(self.graph))

    @property
    def limits(self) -> tuple[GroupLimit, ...]:
        """How many units of each group may go, and in what steps."""
        multiple = self.multiple
        return limits_of(self.graph, multiple.number, self.rules, is_strict=multiple.is_strict)

    @property
    def held(self) -> Mapping[int, str]:
        """By index of a group that the user keeps whole: the option."""
        return held_groups(self.graph.groups, self.rules)

    def groups(self, scores: UnitScores | None = None) -> tuple[GroupScores, ...]:
        """Scores group by group within all limits; all 0 where only the limits matter."""
        return group_scores(
            self.graph, scores, self.multiple.number, self.rules,
            "tod" if scores is None else self.allocation, is_strict=self.multiple.is_strict,
        )  # fmt: skip

    def rounded_to(self, multiple: Multiple) -> Problem:
        """The same with other channel counts."""
        return replace(self, multiple=multiple)

    def without_rounding(self) -> Problem:
        """The same with any channel counts."""
        rules = tuple(rule for rule in self.rules if rule.kind != "round_to")
        return replace(self, rules=rules, multiple=Multiple(1, "budget"))

    def refuse_unreachable(self) -> None:
        """Refuse a counted budget that no plan meets, before any image is read.

        Raises:
            BudgetError: Says what is reachable, and which option is in the way.
        """
        if not self.counted:
            return
        loose = self.rounded_to(replace(self.multiple, is_strict=False))
        relaxed = {
            name: replace(loose, rules=tuple(rest)).groups()
            for name, rest in rules_without_an_option(self.rules).items()
        }
        check_reachable(
            loose.groups(), self.costs.costs, self.counted, relaxed,
            lambda: blocks_hint(self.graph),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """Which units go, and what decided it."""

    problem: Problem
    """With the channel multiple that the plan keeps to."""
    groups: tuple[GroupScores, ...]
    """With the scores that decided."""
    allocation: Allocation
    costs: CostModel
    """What was counted or predicted."""
    budgets: tuple[Budget, ...]
    """What ``costs`` held the plan to; of latency, what the model predicts of the plan."""
    latency: LatencySearch | None = None
    gate: DropGate | None = None
    """Of the search for the smallest network within a drop."""
    tensors: Mapping[str, Tensor] | None = None
    """Of the shrunk network, by name, where earlier steps repaired it already."""
    original_file: Path | None = None
    """The original, where it was exported on the way."""

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which units go, shape [num_units]."""
        return removed_units(self.problem.graph, self.groups, self.allocation)


@dataclass(frozen=True, slots=True)
class Search:
    """Knows the problem; what it can do before any image is read is done."""

    run: Run[ShrinkSettings]
    problem: Problem

    def plan(self, scores: UnitScores, data: DataSplits) -> Planned:
        """Which units go.

        Args:
            scores: Of all units.
            data: Where networks must be repaired or tested on the way.

        Raises:
            FairdeployError: There is no such plan.
        """
        raise NotImplementedError

    def for_graph(self, graph: UnitGraph) -> Self:
        """The same with the network as its data show it."""
        return replace(self, problem=replace(self.problem, graph=graph))


def tensor_names(graph: UnitGraph, is_input_named: bool) -> TensorNames:
    """What a file's inputs, outputs and axes are called.

    Args:
        graph: The network.
        is_input_named: Whether the user has named the inputs; else a single one is ``input``.
    """
    names = graph.inputs.names
    return TensorNames(
        inputs=names if is_input_named or len(names) > 1 else ("input",),
        outputs=graph.outputs.names,
        sizes=tuple(
            {
                dim: size
                for dim, size in enumerate(spec.sizes, start=1)
                if isinstance(size, VaryingSize)
            }
            for spec in graph.inputs.specs
        ),
    )
