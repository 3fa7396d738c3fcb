"""Decides whether a step's network stays, by the figure that the user is shown.

That is the accuracy where the selection images have labels, and elsewhere the share of them with
the class that the original gives. A network that gives no class scores is judged by its error.

The rule, for every step alike: new weights stay if they have more of the images right than those
they replace; with equally many, or fewer, what was there before comes back. On images that decide
nothing else the better figure is the better guess even where chance may explain it, and to ask for
certainty would throw away true gains of a point or two. Whether it is more than chance is said
apart, by the interval of paired answers: ``improved`` or merely ``unclear``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, fx

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import DataSplits, ImageSet, Measure, Verdict, paired_interval
from fairdeploy.recovery.training.best_weights import BestWeights
from fairdeploy.recovery.training.network_blocks import input_names, main_output, stretch
from fairdeploy.recovery.training.processes import on_device
from fairdeploy.tasks.base import pooled

BATCH = 64
HELD_OUT_EVERY = 4
"""Of the calibration images, where there are hardly any others to choose with."""

_TINY = 1e-30

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answers:
    """How a network does on the selection images."""

    each: Tensor
    """float64 [N]: 1 for the wanted class, else 0; or the negative error."""

    @property
    def value(self) -> float:
        """The mean; the larger the better."""
        return float(self.each.mean())


class Judge:
    """Runs networks on the selection images."""

    def __init__(
        self,
        graph: UnitGraph,
        selection: ImageSet,
        device: torch.device | None = None,
        *,
        are_targets_known: bool = False,
    ) -> None:
        """Find out what is wanted of each image.

        Args:
            graph: Of the original.
            selection: The images.
            device: Where the original is asked.
            are_targets_known: Whether it is known that the original's answers stand for targets
                where there are none. Several numbers may be scores, or quantities of which one is
                always the largest; unless it is known the answers tell.
        """
        self._graph, self._selection = graph, selection
        self._device = device or torch.device("cpu")
        self._batch = BATCH if graph.has_dynamic_batch else graph.inputs.batch
        module = on_device(graph.module, self._device)
        main = main_output(module, graph.outputs.main).name
        self._original = stretch(module, input_names(module), [main], graph.outputs.batch_dim)
        self._task = graph.outputs.task
        self.measure: Measure = "error"
        self._wanted = selection.labels
        if not (self._task.has_targets and self._task.judges_by_marks):
            return
        if selection.labels is not None and selection.label_source == "given":
            self.measure = "accuracy"
            return
        own = []
        for part in self._parts(self._original, self._device):
            targets = self._task.own_targets(part)
            if targets is None:
                return
            own.append(targets)
        self._wanted = torch.cat(own)
        if are_targets_known or self._task.are_telling(self._wanted, pooled(part).shape[1]):
            self.measure = "agreement"

    @property
    def num_images(self) -> int:
        """On which networks are compared."""
        return len(self._selection)

    def answers(self, network: fx.GraphModule, device: torch.device | None = None) -> Answers:
        """Of the captured ``network``, in eval mode and on ``device``."""
        device = device or torch.device("cpu")
        main = main_output(network, self._graph.outputs.main).name
        asked = stretch(network, input_names(network), [main], self._graph.outputs.batch_dim)
        if self.measure == "error":
            return Answers(-self._errors(asked, device))
        assert self._wanted is not None
        parts = self._parts(asked, device)
        wanted = torch.split(self._wanted, self._batch)
        marks = [self._task.marks(*pair) for pair in zip(parts, wanted, strict=True)]
        return Answers(torch.cat(marks))

    def _errors(self, network: fx.GraphModule, device: torch.device) -> Tensor:
        """By image; the original is asked again, since maps of all images may be too large."""
        both = zip(
            self._parts(network, device), self._parts(self._original, self._device), strict=True
        )
        errors, means, squares = [], [], []
        for ours, theirs in both:
            wanted = _rows(theirs)
            errors.append((_rows(ours) - wanted).square().mean(dim=1))
            means.append(wanted.mean(dim=1))
            squares.append(wanted.square().mean(dim=1))
        variance = torch.cat(squares).mean() - torch.cat(means).mean().square()
        return torch.cat(errors) / variance.clamp_min(_TINY)

    def _parts(self, network: fx.GraphModule, device: torch.device) -> Iterator[Tensor]:
        """The main output for all images, in batches."""
        tensors = self._graph.inputs.arranged(self._selection)
        is_fixed, batch = not self._graph.has_dynamic_batch, self._batch
        count = len(self._selection)
        for start in range(0, count, batch):
            used = min(batch, count - start)
            chosen = torch.arange(start, start + (batch if is_fixed else used)) % count
            with torch.no_grad():
                (found,) = network(*(tensor[chosen].to(device) for tensor in tensors))
            yield found[:used].float().cpu()


class Contest:
    """One step's best moment against what the step began with."""

    def __init__(
        self,
        judge: Judge,
        network: fx.GraphModule,
        device: torch.device | None = None,
        agreed: Callable[[float], float] = float,
    ) -> None:
        """Remember the network as it is.

        Args:
            judge: Knows the images.
            network: The one that the step changes in place.
            device: Where it is.
            agreed: Of several processes' figures the one that counts.
        """
        self._judge, self._network, self._device = judge, network, device
        self._agreed = agreed
        self._before = judge.answers(network, device)
        self.value = agreed(self._before.value)
        """Of what the step began with."""
        self.best = BestWeights(network, -self.value)

    def look(self) -> float:
        """The figure of the network as it is now; remembered if it is the highest so far."""
        value = self._agreed(self._judge.answers(self._network, self._device).value)
        self.best.offer(self._network, -value)
        return value

    def end(self, num_looks: int = 1) -> Verdict:
        """Change the network to the best moment, or back to the beginning; and say what it gave.

        Args:
            num_looks: Of how many the best was taken; the interval is wider for it.
        """
        self.best.restore(self._network)
        after = self._before
        if self.best.error < -self.value:
            after = self._judge.answers(self._network, self._device)
        measure, sign = self._judge.measure, -1.0 if self._judge.measure == "error" else 1.0
        gain = after.each - self._before.each
        squares = float(gain.square().sum())
        unit = 1.0 if measure != "error" else (squares / len(gain)) ** 0.5
        low, high = paired_interval(float(gain.sum()), squares, len(gain), unit, num_looks)
        return Verdict(
            measure=measure,
            before=sign * self._before.value,
            after=sign * after.value,
            low=low,
            high=high,
            num_images=self._judge.num_images,
            is_taken=after is not self._before,
        )


def _rows(values: Tensor) -> Tensor:
    """float64 [N, values of an image]."""
    return values.double().reshape(len(values), -1)


def kept_if_better(
    judge: Judge | None, network: fx.GraphModule, change: Callable[[], Result]
) -> tuple[Result, Verdict | None]:
    """Change ``network`` in place, and back again if that was no gain; without judge it stays."""
    if judge is None:
        return change(), None
    contest = Contest(judge, network)
    result = change()
    contest.look()
    return result, contest.end()


def held_apart(data: DataSplits) -> DataSplits:
    """With images to choose with, which nothing is fitted to.

    They are those for selection; where there are hardly any, some of those for calibration.
    """
    learned, held_out = divided(data.calibration)
    if data.selection is not None and len(data.selection) >= len(held_out):
        return data
    return replace(data, calibration=learned, selection=held_out)


def divided(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Images to learn from, and images to choose with."""
    is_held_out = torch.arange(len(images)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return images.part(~is_held_out), images.part(is_held_out)
