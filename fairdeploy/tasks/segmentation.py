"""Segmentation: scores of classes for each pixel, judged by the mean intersection over union."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError
from fairdeploy.records import ClassChange, DataSplits
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.tasks.augmentation import shifted_and_flipped
from fairdeploy.tasks.base import Original, pooled, two_scores
from fairdeploy.tasks.resampled import Figures, Resampled

_VOID = -1
"""Pixels that are not judged: in a mask any number that is no class."""
_MOST_VOID = 0.5


@dataclass(frozen=True)
class Segmentation(Resampled):
    """Answers are scores [N, classes, H, W], targets masks of class numbers [N, H', W'].

    With one channel a pixel is of class 1 where its score is above 0, or its probability above a
    half. Masks of another size are brought to that of the answer (nearest pixel).
    """

    words: ClassVar[TaskWords] = TaskWords(
        "segmentation", "mIoU", "%", is_higher_better=True, agreement="same pixels",
        agreement_means="The share of pixels to which file and torch give the same class.",
    )  # fmt: skip
    least_alike: ClassVar[float] = 0.99
    num_classes: int
    """2 where there is one channel."""
    are_probabilities: bool = False
    """Whether one channel holds probabilities; else scores."""

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data as it is.

        Raises:
            DataError: Most of the masks' pixels are no class of the network's.
        """
        for what, images in data.image_sets().items():
            if images.labels is None or images.is_synthetic:
                continue
            void = self._is_void(images.labels)
            if float(void.float().mean()) > _MOST_VOID:
                found = sorted(torch.unique(images.labels).tolist())
                raise DataError(
                    f"{float(void.float().mean()):.0%} of the pixels of the {what} masks are none "
                    f"of the network's {self.num_classes} classes (they hold "
                    f"{', '.join(map(str, found[:6]))}{', …' if len(found) > 6 else ''}); give "
                    f"masks of class numbers from 0 to {self.num_classes - 1}, one channel"
                )
        return data

    def own_targets(self, answer: Tensor) -> Tensor:
        """The class of each pixel; of pooled answers that with the highest mean."""
        return self._scores(answer).argmax(1)

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """The class with the highest mean score."""
        return pooled(self._scores(answer)).argmax(1)

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Cross-entropy of a pixel, summed over the images."""
        assert targets is not None
        masks = self._masks(targets, answer)
        entropies = functional.cross_entropy(
            self._scores(answer), masks, ignore_index=_VOID, reduction="none"
        )
        judged = (masks != _VOID).flatten(1).sum(1).clamp_min(1)
        return (entropies.flatten(1).sum(1) / judged).sum()

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of the classes' probabilities, by pixel."""
        ours, theirs = (
            (self._scores(each) / temperature).log_softmax(1) for each in (answer, wanted)
        )
        divergence = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
        return divergence * temperature**2 / (wanted[0, 0].numel())

    def augmented(
        self, images: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Images and masks moved and mirrored alike."""
        if targets is None:
            return super().augmented(images, targets, generator)
        masks = _resized(targets, images.shape[2:])
        both = torch.cat([images, masks[:, None].to(images.dtype) - _VOID], 1)
        both = shifted_and_flipped(both, generator)
        return both[:, :-1], both[:, -1].round().long() + _VOID

    def kept(self, answer: Tensor) -> Tensor:
        """The class of each pixel, int16 [N, H, W]."""
        return self._scores(answer).argmax(1).to(torch.int16)

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Share of an image's judged pixels that are right."""
        masks = self._masks(targets, answers)
        judged = masks != _VOID
        right = ((answers == masks) & judged).flatten(1).sum(1).double()
        count = judged.flatten(1).sum(1)
        return torch.where(count > 0, right / count.clamp_min(1), torch.ones_like(right))

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """By class the pixels that both, and that either, give to it, float64 [N, classes]."""
        masks = self._masks(targets, answers)
        judged, size = masks != _VOID, self.num_classes
        codes = masks.clamp_min(0).long() * size + answers.long()
        tables = torch.stack([
            torch.bincount(code[is_judged], minlength=size * size).reshape(size, size)
            for code, is_judged in zip(codes, judged, strict=True)
        ]).double()  # fmt: skip
        both = tables.diagonal(dim1=1, dim2=2)
        return {"both": both, "either": tables.sum(1) + tables.sum(2) - both}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Mean over the classes that come up."""
        both, either = weights @ figures["both"], weights @ figures["either"]
        comes_up = either > 0
        shares = torch.where(comes_up, both / either.clamp_min(1), torch.zeros_like(both))
        return shares.sum(1) / comes_up.sum(1).clamp_min(1)

    def changes(self, before: Tensor, after: Tensor, targets: Tensor) -> tuple[ClassChange, ...]:
        """None: pixels of a class are no images."""
        return ()

    def baseline(self, targets: Tensor) -> float:
        """Of the commonest class everywhere."""
        judged = targets[~self._is_void(targets)].long()
        counts = torch.bincount(judged.flatten(), minlength=self.num_classes).double()
        return float(counts.max() / counts.sum().clamp_min(1) / max(int((counts > 0).sum()), 1))

    def decisions(self, answer: Tensor) -> Tensor:
        """The class of each pixel."""
        return self.kept(answer)

    def _scores(self, answer: Tensor) -> Tensor:
        """Of each class, from one channel too."""
        if answer.shape[1] > 1:
            return answer
        return two_scores(answer, self.are_probabilities)

    def _is_void(self, masks: Tensor) -> Tensor:
        return (masks < 0) | (masks >= self.num_classes)

    def _masks(self, targets: Tensor, answer: Tensor) -> Tensor:
        """int64 [N, H, W] of the answer's size, with ``_VOID`` where nothing is judged."""
        masks = _resized(targets.to(answer.device), answer.shape[-2:])
        return masks.masked_fill(self._is_void(masks), _VOID)


def _resized(masks: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """[N, H, W] of this size, also of masks with one channel."""
    masks = masks.long().reshape(len(masks), *masks.shape[-2:])
    if masks.shape[1:] == tuple(size):
        return masks
    scaled = functional.interpolate(masks[:, None].double(), size=tuple(size), mode="nearest-exact")
    return scaled[:, 0].long()
