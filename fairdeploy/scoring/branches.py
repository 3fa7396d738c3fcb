"""U and R of residual branches, each of which is one unit.

- R, as of any unit: the absolute value of the first-order estimate of what the loss would change by
  if the branch added zero, ``|sum of y * dL/dy|`` over its output ``y``, all images and positions.
  For a last layer ``y = W x + b`` that is the signed sum over the layer's parameters; earlier
  layers of the branch would only count the same change again.
- U: how much of what differs between images the branch puts into the sum, ``std(y) / std(sum)``,
  with the variance over images taken at each element and added up. What is the same for all images
  says nothing of them, and the repair makes up for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.fx.node import Argument, Target

from fairdeploy.graph.model_outputs import class_scores
from fairdeploy.graph.stored_tensors import fetch_tensor
from fairdeploy.graph.unit_graph import Branch, UnitGraph
from fairdeploy.records import ImageSet, UnitScores
from fairdeploy.scoring.collector import batch_size


def with_branch_scores(graph: UnitGraph, images: ImageSet, scores: UnitScores) -> UnitScores:
    """The scores with those of the residual branches in their places.

    Args:
        graph: The network, which stays as it is.
        images: With labels, or without: then the model's own predictions are the classes.
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
    """U, 1 on average, and R of every branch, in the order of ``graph.branches``."""
    inputs = graph.inputs.arranged(images)
    num_images, batch = len(images), batch_size(graph, len(images))
    with torch.inference_mode(False), torch.enable_grad():
        run = _Pass(graph)
        for start in range(0, num_images, batch):
            part = slice(start, min(start + batch, num_images))
            size = part.stop - part.start if graph.has_dynamic_batch else batch
            labels = None if images.labels is None else images.labels[part]
            filled = tuple(_filled(tensor[part], size) for tensor in inputs)
            run.batch(filled, labels, part.stop - part.start)
    u = np.array([run.readings[branch.total].share() for branch in graph.branches])
    r = np.array([abs(run.readings[branch.total].product) for branch in graph.branches])
    mean = float(u.mean())
    return (u / mean if mean > 0 else u), r / num_images


@dataclass(slots=True)
class _Spread:
    """Sums over images of a value, element by element."""

    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, value: Tensor) -> None:
        value = value.double()
        total, squares = value.sum(0), value.square().sum(0)
        self.count += len(value)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares

    def variance(self) -> float:
        """Summed over all elements."""
        if self.total is None or self.squares is None:
            return 0.0
        variances = self.squares / self.count - (self.total / self.count).square()
        return float(variances.clamp_min(0).sum())


@dataclass(slots=True)
class _Reading:
    value: _Spread = field(default_factory=_Spread)
    total: _Spread = field(default_factory=_Spread)
    product: float = 0.0

    def share(self) -> float:
        whole = self.total.variance()
        return float(np.sqrt(self.value.variance() / whole)) if whole > 0 else 0.0


class _Pass(fx.Interpreter):
    """Runs the graph on detached tensors, with a gate of 1 on each branch that takes gradients."""

    def __init__(self, graph: UnitGraph) -> None:
        super().__init__(graph.module)
        self._outputs = graph.outputs
        self._branches: dict[str, Branch] = {branch.total: branch for branch in graph.branches}
        self._gates: dict[str, Tensor] = {}
        self._used = 0
        self.readings = {branch.total: _Reading() for branch in graph.branches}
        first = next(graph.module.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device

    def batch(self, inputs: tuple[Tensor, ...], labels: Tensor | None, used: int) -> None:
        """Forward and backward of one batch, whose first ``used`` images count."""
        self._used = used
        self._gates.clear()
        output = self.run(*(tensor.to(self._device) for tensor in inputs))
        logits = class_scores(self._outputs.main_tensor(output))[:used]
        targets = logits.detach().argmax(1) if labels is None else labels.to(logits.device)
        loss = F.cross_entropy(logits, targets, reduction="sum")
        gates = list(self._gates.values())
        if not loss.requires_grad:  # no branch reaches this output
            return
        gradients = torch.autograd.grad(loss, gates, allow_unused=True)
        for name, gradient in zip(self._gates, gradients, strict=True):
            if gradient is not None:
                self.readings[name].product += float(gradient)

    def get_attr(
        self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]
    ) -> object:
        """A detached tensor; a clone of a buffer, which a call might write to."""
        tensor = fetch_tensor(self.module, str(target))
        if tensor is None:
            return super().get_attr(target, args, kwargs)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return tensor.detach() if is_parameter else tensor.detach().clone()

    def run_node(self, n: fx.Node) -> object:
        """Run one node; a sum reads its branch through the gate."""
        branch = self._branches.get(n.name)
        if branch is None:
            return super().run_node(n)
        operands = list(self.fetch_args_kwargs_from_env(n)[0])
        place = [source.name for source in n.all_input_nodes].index(branch.value)
        gate = torch.ones((), requires_grad=True, device=self._device)
        self._gates[n.name] = gate
        value = operands[place]
        assert isinstance(value, Tensor)
        operands[place] = value * gate.to(value.dtype)
        assert callable(n.target)
        result = n.target(*operands)
        reading = self.readings[n.name]
        reading.value.add(value.detach()[: self._used])
        reading.total.add(result.detach()[: self._used])
        return result


def _filled(tensor: Tensor, size: int) -> Tensor:
    """An input of ``size`` images, filled up by repetition, that autograd accepts."""
    if size > len(tensor):
        tensor = tensor[torch.arange(size) % len(tensor)]
    return tensor.clone() if tensor.is_inference() else tensor.detach()
