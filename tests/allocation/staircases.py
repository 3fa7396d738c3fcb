"""Networks on made-up devices whose time is a staircase with cliffs, unlike the model of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.latency_search import search_latency
from fairdeploy.allocation.nearby import nearby_plan
from fairdeploy.allocation.search import search, smallest_plan
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import Allocation, Budget, GroupScores, LatencySearch, TimedPlan

STEP = 8


@dataclass(frozen=True)
class Cliff:
    """What the device saves once a group keeps at most so many units: another kernel, say."""

    group: int
    kept: int
    ms: float


@dataclass
class Staircase:
    """A chain of layers: the model knows their work, the device works in whole tiles."""

    groups: tuple[GroupScores, ...]
    costs: CostModel
    layer_ms: NDArray[np.float64]
    """Of each layer with all its units, [G + 1]."""
    tiles: NDArray[np.int64]
    """Channels that the device computes at once, [G]."""
    cliffs: Sequence[Cliff]
    fixed_ms: float
    noise: np.random.Generator
    noise_share: float = 0.0
    measured: list[float] = field(default_factory=list)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.array([len(group.u) for group in self.groups])

    def kept(self, plan: Allocation) -> NDArray[np.int64]:
        return self.sizes - np.array([len(plan.removed[group.name]) for group in self.groups])

    def device_ms(self, kept: NDArray[np.int64]) -> float:
        widths = np.minimum(-(-kept // self.tiles) * self.tiles, self.sizes) / self.sizes
        before, after = np.append(1.0, widths), np.append(widths, 1.0)
        high = sum(cliff.ms for cliff in self.cliffs if kept[cliff.group] > cliff.kept)
        return float(self.fixed_ms + high + (self.layer_ms * before * after).sum())

    def timed(self, kept: NDArray[np.int64]) -> TimedPlan:
        original = self.device_ms(self.sizes)
        ms = self.device_ms(kept) * (1 + self.noise_share * float(self.noise.normal()))
        return TimedPlan(ms / original, ms / original, ms / original, original, ms)

    def smallest_kept(self) -> NDArray[np.int64]:
        removed = smallest_plan(self.groups)
        return self.sizes - np.array([len(removed[group.name]) for group in self.groups])

    def predicted_ms(self, kept: NDArray[np.int64]) -> float:
        return self.costs.cost(kept)["latency"]

    def plan_at(self, share: float, others: tuple[Budget, ...] = ()) -> Allocation:
        """The plan on the tolerance path for a predicted share of the original."""
        limit = Budget("latency", "latency", fraction=share * (1 + 1e-9))
        return search(self.groups, self.costs.costs, (*others, limit))

    def ratio(self, plan: Allocation) -> float:
        """What the device takes for it beside the original, without noise."""
        return self.device_ms(self.kept(plan)) / self.device_ms(self.sizes)

    def fraction_in_a_step(self, place: float) -> float | None:
        """A budget that no plan on the path comes within 3 % of, from below; None if all are hit.

        Args:
            place: Where in the step, from 0 to 1.
        """
        least = self.predicted_ms(self.smallest_kept()) / self.predicted_ms(self.sizes)
        shares = np.linspace(least * 1.02, 0.99, 24)
        ratios = [self.ratio(self.plan_at(share)) for share in shares]
        rises = [above / below for below, above in itertools.pairwise(ratios)]
        at = int(np.argmax(rises))
        (low, below), (high, above) = zip(shares[at : at + 2], ratios[at : at + 2], strict=True)
        for _ in range(8):
            share = (low + high) / 2
            ratio = self.ratio(self.plan_at(share))
            if ratio / below > above / ratio:
                high, above = share, ratio
            else:
                low, below = share, ratio
        below /= 0.97
        return below + place * (above - below) if above > below * 1.002 else None

    def search(
        self, fraction: float, others: tuple[Budget, ...] = (), *, only_path: bool = False
    ) -> tuple[Allocation, LatencySearch]:
        original = self.predicted_ms(self.sizes)

        least = self.smallest_kept()
        return search_latency(
            lambda share: self.plan_at(share, others),
            lambda plan: self.timed(self.kept(plan)),
            lambda timed: timed.ratio / fraction,
            predicted=lambda plan: plan.costs["latency"] / original,
            smallest=(self.predicted_ms(least) / original, self.timed(least)),
            original=TimedPlan(1.0, 1.0, 1.0, 1.0, 1.0),
            budget=f"latency={fraction:.1%}",
            nearby=None if only_path else lambda plan, share, fixed: nearby_plan(
                plan, self.groups, self.costs.costs, others,
                latency_ms=share * original, fixed=fixed,
            ),
        )  # fmt: skip


def random_staircase(seed: int, noise_share: float = 0.0) -> Staircase:
    """10 to 20 groups of 32 to 160 units, tiles of 8 or 16, and cliffs of 2 to 6 % each.

    The device needs 30 % more or less for a layer than the model thinks.
    """
    random = np.random.default_rng(seed)
    num_groups = int(random.integers(10, 21))
    sizes = 8 * random.integers(4, 21, num_groups)
    groups = tuple(
        GroupScores(f"g{index}", u := random.random(size), 0.3 * u + random.random(size),
                    max_removed=int(size) - STEP, step=STEP)
        for index, size in enumerate(sizes)
    )  # fmt: skip
    work = random.uniform(0.5, 2.0, num_groups + 1)
    layer_ms = work * np.exp(random.normal(0, 0.3, num_groups + 1))
    total = float(layer_ms.sum())
    cliffs = [
        Cliff(int(group), int(random.integers(1, sizes[group] // 8)) * 8,
              float(random.uniform(0.02, 0.06)) * total)
        for group in random.choice(num_groups, int(random.integers(1, 5)), replace=False)
    ]  # fmt: skip
    fixed = float(random.uniform(0.05, 0.2)) * total
    return Staircase(
        groups, _costs(sizes, work, fixed), layer_ms, random.choice([8, 16], num_groups), cliffs,
        fixed, random, noise_share,
    )  # fmt: skip


def _costs(sizes: NDArray[np.int64], work: NDArray[np.float64], fixed: float) -> CostModel:
    """Every layer's parameters, MACs and predicted time grow with both its widths."""
    num_groups = len(sizes)
    latency, params = [CostTerm(fixed, ())], []
    for layer in range(num_groups + 1):
        own = [group for group in (layer - 1, layer) if 0 <= group < num_groups]
        dims = tuple((0, ((group, 1),)) for group in own)
        full = float(np.prod([sizes[group] for group in own]))
        latency.append(CostTerm(float(work[layer]) / full, dims))
        params.append(CostTerm(1.0, dims))
    macs = tuple(CostTerm(float(term.coefficient) * 1e6, term.dims) for term in latency[1:])
    terms = {"params": tuple(params), "macs": macs, "latency": tuple(latency)}
    return CostModel(terms, num_groups)
