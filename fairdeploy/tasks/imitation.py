"""Imitation: outputs about which nothing is known, which can only be held to the original's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fairdeploy.errors import DataError, UsageError
from fairdeploy.records import DataSplits, PruningMethod
from fairdeploy.tasks.base import Original, Task, pooled

_MAP_DIMS = 4
_COMPARES_IMAGES = "wasserstein"


@dataclass(frozen=True)
class Imitation(Task):
    """Answers of any shape, and no targets."""

    name: ClassVar[str] = "imitation"
    shape: tuple[int, ...]
    """Of an answer."""

    @property
    def is_one_number(self) -> bool:
        """Whether there is one number, or one map of numbers, for each image."""
        return len(self.shape) == 1 or self.shape[1] == 1

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data without its labels, which nothing here can be compared with.

        Raises:
            DataError: There are labels, and one number for each image.
        """
        if all(images.labels is None for images in data.image_sets().values()):
            return data
        if self.is_one_number:
            raise DataError(
                "the model gives one number per image, and labels are only compared with the "
                "largest of several scores so far; leave the labels out (images alone are enough), "
                "or let the forward of a two-class network return two scores: "
                "torch.cat([0 * x, x], 1)"
            )
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

    def own_targets(self, answer: Tensor) -> Tensor | None:
        """Of maps the channel with the highest mean, which tells images apart; else None."""
        return pooled(answer).argmax(1) if len(self.shape) >= _MAP_DIMS else None
