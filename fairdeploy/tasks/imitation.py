"""Imitation: outputs about which nothing is known, which can only be held to the original's.

The error of an output is the root mean square of its difference from the original's, as a share of
how far that moves about its mean over the images: an output that is the same for every image would
have an error of 1. Intervals come from drawing the images again (bootstrap, percentiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import UsageError
from fairdeploy.records import AccuracyEstimate, DataSplits, PruningMethod
from fairdeploy.records.accuracy import Likeness, OutputLikeness, TaskWords
from fairdeploy.tasks.base import Original, Task, pooled
from fairdeploy.tasks.classification import wilson_interval

_MAP_DIMS = 4
_COMPARES_IMAGES = "wasserstein"
_NUM_DRAWS = 2_000
_TINY = 1e-30

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Imitation(Task):
    """Answers of any shape, and no targets."""

    words: ClassVar[TaskWords] = TaskWords(
        "imitation", "error against the original", "%", is_higher_better=False
    )
    shape: tuple[int, ...]
    """Of an answer."""

    @property
    def is_one_number(self) -> bool:
        """Whether there is one number, or one map of numbers, for each image."""
        return len(self.shape) == 1 or self.shape[1] == 1

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data without its labels, which nothing here can be compared with."""
        if all(images.labels is None for images in data.image_sets().values()):
            return data
        text = "the labels are left out: answers are only held to what the original gives"
        if len(self.shape) > _MAP_DIMS - 2:
            text = "the model gives a map, not one score per class; accuracy is not measured"
        return replace(data.unlabelled(), warnings=(*data.warnings, text))

    def check_method(self, method: PruningMethod) -> None:
        """Refuse a signal that tells images apart, where there is but one number to do so by.

        Raises:
            UsageError: There is.
        """
        for option, name in (("--signal", method.signal), ("--protect", method.protect)):
            if self.is_one_number and name == _COMPARES_IMAGES:
                raise UsageError(
                    f"{option} {name} compares classes, and the model gives one number per image; "
                    f"give --data with images and no labels, or another signal: {option} l1"
                )

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Maps whose mean is highest in the same channel belong together."""
        if len(self.shape) < _MAP_DIMS:
            return super().groups(answer, targets)
        return pooled(answer).argmax(1)


def likeness(
    ours: Sequence[Array],
    theirs: Sequence[Array],
    names: Sequence[str],
    main: int,
    task: Task,
    num_images: int,
) -> Likeness:
    """How much a network gives what the original gives.

    Args:
        ours: Every output for the same images; those that have not one item for each are left out.
        theirs: The original's.
        names: Of the outputs.
        main: Place of the output that ``task`` is about.
        task: Knows whether answers may be called the same.
        num_images: How many there are.
    """
    draws = np.random.default_rng(0).integers(num_images, size=(_NUM_DRAWS, num_images))
    outputs = tuple(
        _output_likeness(name, _rows(found), _rows(wanted), draws)
        for name, found, wanted in zip(names, ours, theirs, strict=True)
        if wanted.shape[:1] == (num_images,)
        and wanted.shape == found.shape
        and np.issubdtype(wanted.dtype, np.floating)
    )
    same = task.agreeing(ours[main], theirs[main])
    return Likeness(outputs, None if same is None else wilson_interval(int(same.sum()), len(same)))


def _output_likeness(name: str, found: Floats, wanted: Floats, draws: Array) -> OutputLikeness:
    # About the mean over the images: what all images have in common would hide what tells them
    # apart, most of all in the cosine.
    mean = wanted.mean(0)
    found, wanted = found - mean, wanted - mean
    errors, spreads = ((found - wanted) ** 2).sum(1), (wanted**2).sum(1)
    drawn = np.sqrt(errors[draws].sum(1) / np.maximum(spreads[draws].sum(1), _TINY))
    error = float(np.sqrt(errors.sum() / max(spreads.sum(), _TINY)))
    cosine = None
    if wanted.shape[1] > 1:
        lengths = np.sqrt((found**2).sum(1) * spreads)
        cosines = (found * wanted).sum(1) / np.maximum(lengths, _TINY)
        cosine = _estimate(float(cosines.mean()), cosines[draws].mean(1), len(wanted))
    return OutputLikeness(name, _estimate(error, drawn, len(wanted)), cosine)


def _estimate(value: float, drawn: Floats, num_images: int) -> AccuracyEstimate:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return AccuracyEstimate(value, min(float(low), value), max(float(high), value), num_images)


def _rows(output: Array) -> Floats:
    """[N, values of an image]."""
    rows: Floats = output.astype(np.float64).reshape(len(output), -1)
    return rows
