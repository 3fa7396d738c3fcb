"""Random groups and costs for the properties of tolerance and search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import GroupScores

# Few distinct values, so that ties are common.
SCORES = st.integers(0, 6).map(lambda value: value / 2)


@dataclass(frozen=True)
class Problem:
    """Groups and the cost of what they keep."""

    groups: tuple[GroupScores, ...]
    model: CostModel

    def kept(self, removed: dict[str, int]) -> np.ndarray:
        """Kept counts [G] from numbers of removed units."""
        return np.array([len(group.u) - removed[group.name] for group in self.groups])


@st.composite
def group_scores(
    draw: st.DrawFn, name: str = "group", max_units: int = 12, max_step: int = 1
) -> GroupScores:
    """Scores of one group with at least one unit."""
    num_units = draw(st.integers(1, max_units))
    u, r = (
        np.array(draw(st.lists(SCORES, min_size=num_units, max_size=num_units))) for _ in range(2)
    )
    return GroupScores(
        name,
        u,
        r,
        max_removed=draw(st.integers(0, num_units - 1)),
        step=draw(st.integers(1, max_step)),
    )


@st.composite
def problems(draw: st.DrawFn, max_step: int = 1) -> Problem:
    """One to five groups in a chain of layers: each term multiplies one or two dimensions."""
    num_groups = draw(st.integers(1, 5))
    groups = tuple(
        draw(group_scores(f"group{index}", max_step=max_step)) for index in range(num_groups)
    )
    dims = st.tuples(
        st.integers(0, 3),
        st.lists(
            st.tuples(st.integers(0, num_groups - 1), st.integers(1, 3)), min_size=1, max_size=2
        ).map(tuple),
    )
    term = st.builds(
        CostTerm, st.integers(1, 9).map(float), st.lists(dims, min_size=1, max_size=2).map(tuple)
    )
    # Every group costs something, and there is something that never goes.
    own = [CostTerm(1.0, ((1, ((index, 1),)),)) for index in range(num_groups)]
    terms = {
        metric: (CostTerm(5.0, ()), *own, *draw(st.lists(term, max_size=6)))
        for metric in ("params", "macs")
    }
    return Problem(groups, CostModel(terms, num_groups))
