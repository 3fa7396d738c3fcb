"""How long a network of given widths should take: a model that proposes; measurement decides.

The runtime's profiler times each node of the original and of the smallest network that is allowed.
Between the two, a node's time is taken to be a straight line in its work (see ``graph.node_work``):
a share that stays whatever the widths are, and a share that falls with them, at least a tenth. That
is exact at both ends. In between it knows nothing of the staircases of real kernels, so the search
corrects it with what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.cost import CostModel
from fairdeploy.graph.cost_terms import NodeWork
from fairdeploy.graph.unit_graph import CostTerm

# Below this share of lost work a node's two times differ by noise alone.
_LEAST_CHANGE = 0.02
# In very small networks the profiler's own cost hides what widths save; yet less work is never
# slower, and a model in which nothing helps could propose nothing.
_MOST_FIXED = 0.9


def latency_terms(
    works: Sequence[NodeWork],
    original_ms: Mapping[str, float],
    smallest_ms: Mapping[str, float],
    smallest_kept: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> tuple[CostTerm, ...]:
    """Milliseconds of the whole network as cost terms, like those of parameters and MACs.

    Args:
        works: Of every node.
        original_ms: Time by node; time under any other name belongs to no node.
        smallest_ms: The same for the network that keeps ``smallest_kept``, with all of its residual
            branches: what a branch takes however narrow it is, goes with the branch alone.
        smallest_kept: Units that each group keeps there, shape [G].
        sizes: Units that each group has, shape [G].
    """
    timed = [work for work in works if original_ms.get(work.node, 0.0) > 0]
    ends = _works_at(timed, np.stack([sizes, smallest_kept]))
    terms: list[CostTerm] = []
    fixed_ms, moving_ms = _of_no_node(timed, original_ms, smallest_ms)
    for work, (most, least) in zip(timed, ends, strict=True):
        ms = original_ms[work.node]
        fixed = _fixed_share(ms, smallest_ms.get(work.node, 0.0), least / most if most else 1.0)
        if work.gates:
            terms.append(CostTerm(fixed * ms, work.gates))
        else:
            fixed_ms += fixed * ms
        scale = (1 - fixed) * ms / most if most else 0.0
        terms += [CostTerm(scale * term.coefficient, term.dims) for term in work.terms if scale]
    total = sum(original_ms.values()) - fixed_ms - moving_ms
    # what belongs to no node and yet shrank (reorders between layers) shrinks like the rest
    spread = 1 + moving_ms / total if total > 0 else 1.0
    moving = [CostTerm(spread * term.coefficient, term.dims) for term in terms]
    return (CostTerm(fixed_ms, ()), *moving)


def _fixed_share(ms: float, smallest_ms: float, work_left: float) -> float:
    """The share of a node's time that stays when its work goes to nothing."""
    if 1 - work_left < _LEAST_CHANGE:
        return 1.0
    return float(np.clip((smallest_ms / ms - work_left) / (1 - work_left), 0.0, _MOST_FIXED))


def _of_no_node(
    timed: Sequence[NodeWork], original_ms: Mapping[str, float], smallest_ms: Mapping[str, float]
) -> tuple[float, float]:
    """Milliseconds that no node owns: those that stay in the smallest network, and the others."""
    known = {work.node for work in timed}
    before, after = (
        sum(ms for node, ms in times.items() if node not in known)
        for times in (original_ms, smallest_ms)
    )
    return min(before, after), max(before - after, 0.0)


def _works_at(works: Sequence[NodeWork], kept: NDArray[np.int64]) -> NDArray[np.float64]:
    """Work of each node for each row of kept counts [B, G], shape [nodes, B]."""
    model = CostModel({work.node: work.terms for work in works}, kept.shape[1])
    costs = model.costs(kept)
    return np.array([costs[work.node] for work in works]).reshape(len(works), len(kept))
