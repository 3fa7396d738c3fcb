"""U and R of residual branches, each of which is one unit, by leaving them out.

Both are how far the answers move without this branch and all that went before it, where at each
step that branch goes which adds least: of two neighbours either may be idle because the other is
there. The answers' move is the mean Kullback-Leibler divergence of the class probabilities without
branches from those with all. That is what the loss would rise by if labels were drawn from the
network's own answers; it needs none, and a hundred images do. The first-order estimate that serves
for channels is far off for a change of this size: for ResNet-56's blocks it was up to 150 times too
small, in another order.

The network runs once for each step, and from a branch's sum on for each branch that is tried.
Branches are tried in the order of what was last known of them, until none that is known to be
better is left (the lazy greedy algorithm, Minoux 1978: leaving out more rarely makes a branch
matter less).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.fx.node import Argument, Target

from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.near_ties import settled
from fairdeploy.graph.residual_branches import is_check
from fairdeploy.graph.unit_graph import Branch, UnitGraph
from fairdeploy.records import ImageSet, UnitScores
from fairdeploy.scoring.collector import batch_size

MAX_IMAGES = 128
"""Spread over all that there are."""

Env = dict[fx.Node, Any]


def with_branch_scores(graph: UnitGraph, images: ImageSet, scores: UnitScores) -> UnitScores:
    """The scores with those of the residual branches in their places.

    Args:
        graph: The network, which stays as it is.
        images: Labels are not needed.
        scores: Of all other units; without images they stay as they are.
    """
    if not graph.branches or len(images) == 0:
        return scores
    u, r = scores.u.copy(), scores.r.copy()
    units = [branch.unit for branch in graph.branches]
    u[units], r[units] = branch_scores(graph, images)
    return UnitScores(u, r, scores.num_classes, max(0, scores.num_unmeasured - len(units)))


def branch_scores(
    graph: UnitGraph, images: ImageSet
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U, 1 on average, and R of every branch, in the order of ``graph.branches``.

    Branches that must stay come last.
    """
    with torch.no_grad():
        trial = _Trial(graph, images)
        alone = np.array([trial.divergence(number) for number in range(len(graph.branches))])
        reached = alone.copy()
        last = 0.0
        may_go = [number for number, branch in enumerate(graph.branches) if not branch.is_first]
        for number, divergence in _elimination(may_go, alone, trial):
            last = max(last, divergence)
            reached[number] = last
    for number, branch in enumerate(graph.branches):
        if branch.is_first:
            reached[number] += last
    mean = float(reached.mean())
    return (reached / mean if mean > 0 else reached), reached


def _elimination(
    may_go: list[int], alone: NDArray[np.float64], trial: _Trial
) -> Iterator[tuple[int, float]]:
    """Branches in the order in which they go, with the divergence that is reached."""
    added = {number: float(alone[number]) for number in may_go}
    fresh = dict(added)
    reached = 0.0
    while added:
        while (best := _least(added)) not in fresh:
            fresh[best] = trial.divergence(best)
            added[best] = fresh[best] - reached
        reached = fresh[best]
        del added[best]
        yield best, reached
        if added:
            trial.leave_out(best)
            fresh = {}


def _least(added: Mapping[int, float]) -> int:
    """The branch that adds least; of near ties the first."""
    numbers = list(added)
    return numbers[int(np.argmin(settled(np.array([added[number] for number in numbers]))))]


class _Trial:
    """The network without some branches, on a set of images."""

    def __init__(self, graph: UnitGraph, images: ImageSet) -> None:
        self._graph = graph
        self._gone: list[Branch] = []
        self._batches = [
            _Batch(graph, inputs, used) for inputs, used in _input_batches(graph, images)
        ]
        self._count = sum(batch.used for batch in self._batches)

    def divergence(self, number: int) -> float:
        """Mean over the images, if this branch goes too."""
        branch = self._graph.branches[number]
        moved = sum(batch.divergence(branch, self._gone) for batch in self._batches)
        return max(moved / self._count, 0.0)

    def leave_out(self, number: int) -> None:
        """From now on the branch is gone."""
        self._gone.append(self._graph.branches[number])
        for batch in self._batches:
            batch.run(self._gone)


@dataclass(frozen=True, slots=True)
class _Point:
    """A sum from which the network can run on."""

    done: tuple[fx.Node, ...]
    """All before it."""
    live: tuple[fx.Node, ...]
    """Those of them that the sum or something behind it reads."""

    def values(self, env: Env) -> Env:
        """What a run needs to go on from here."""
        return dict.fromkeys(self.done) | {node: env[node] for node in self.live}


class _Batch:
    """Images, what the whole network says of them, and what is known at each sum."""

    def __init__(self, graph: UnitGraph, inputs: tuple[Tensor, ...], used: int) -> None:
        self.used = used
        self._graph, self._inputs = graph, inputs
        self._nodes = {node.name: node for node in graph.module.graph.nodes}
        self._points = _points(graph)
        self._starts: dict[str, Env] = {}
        self._whole = self.run([])

    def run(self, gone: list[Branch]) -> Tensor:
        """Answers without branches; what leads on from each sum is kept."""
        waiting = {branch.total: branch for branch in self._graph.branches if branch not in gone}
        self._starts = {}

        def keep(node: fx.Node, env: Env) -> None:
            if node.name in waiting:
                self._starts[node.name] = self._points[node.name].values(env)

        return self._answers(_Run(self._graph, gone, keep).run(*self._inputs))

    def divergence(self, branch: Branch, gone: list[Branch]) -> float:
        """Of the answers without one more branch, summed over the images."""
        run = _Run(self._graph, [*gone, branch])
        start = dict(self._starts[branch.total])
        start[self._nodes[branch.total]] = start[self._nodes[branch.shortcut]]
        answers = self._answers(run.run(initial_env=start))
        return float(self._graph.outputs.task.divergence(answers, self._whole))

    def _answers(self, output: object) -> Tensor:
        return self._graph.outputs.main_tensor(output)[: self.used].double()


class _Run(fx.Interpreter):
    """Runs the graph without some branches, on clones of its buffers; insists on nothing."""

    def __init__(
        self,
        graph: UnitGraph,
        gone: list[Branch],
        before: Callable[[fx.Node, Env], None] | None = None,
    ) -> None:
        super().__init__(graph.module)
        self._shortcuts: Mapping[str, str] = {branch.total: branch.shortcut for branch in gone}
        self._skipped = {name for branch in gone for name in branch.nodes}
        self._before = before

    def run_node(self, n: fx.Node) -> object:
        """Run one node; a sum whose branch is gone gives back its shortcut."""
        if self._before is not None:
            self._before(n, self.env)
        if n.name in self._skipped or is_check(n):
            return None
        shortcut = self._shortcuts.get(n.name)
        if shortcut is None:
            return super().run_node(n)
        return next(self.env[source] for source in n.all_input_nodes if source.name == shortcut)

    def get_attr(
        self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]
    ) -> object:
        """A parameter, or a clone of a buffer, which a call might write to."""
        tensor = fetch_tensor(self.module, str(target))
        if tensor is None or isinstance(tensor, torch.nn.Parameter):
            return super().get_attr(target, args, kwargs)
        return tensor.detach().clone()


def _points(graph: UnitGraph) -> dict[str, _Point]:
    """By name of each branch's sum."""
    nodes = list(graph.module.graph.nodes)
    last_read = {
        source: place for place, node in enumerate(nodes) for source in node.all_input_nodes
    }
    totals = {branch.total for branch in graph.branches}
    return {
        node.name: _Point(
            done=tuple(nodes[:place]),
            live=tuple(source for source in nodes[:place] if last_read.get(source, -1) >= place),
        )
        for place, node in enumerate(nodes)
        if node.name in totals
    }


def _input_batches(graph: UnitGraph, images: ImageSet) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """Inputs, and how many of their images count; the others fill a fixed batch."""
    count = min(len(images), MAX_IMAGES)
    chosen = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    tensors = graph.inputs.arranged(images)
    batch = batch_size(graph, count)
    for part in torch.split(chosen, batch):
        size = len(part) if graph.has_dynamic_batch else batch
        filled = part[torch.arange(size) % len(part)]
        yield tuple(tensor[filled].to(graph.device) for tensor in tensors), len(part)
