"""Image-to-image: pictures made of pictures, judged by likeness to those that should come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits
from fairdeploy.records.accuracy import SecondWords, TaskWords
from fairdeploy.tasks.augmentation import shifted_and_flipped
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.resampled import Figures, Resampled

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
_TINY = 1e-12
_BYTE = 255.0
_CHUNK = 16


@dataclass(frozen=True)
class Restoration(Resampled):
    """Answers are pictures [N, C, H, W], targets those that should come out, of that shape.

    The quality is the mean structural similarity (SSIM, Wang et al. 2004: Gaussian window of 11
    pixels, each channel by itself); beside it stands the mean peak signal-to-noise ratio (PSNR).
    Values outside the range of the targets are cut off first.
    """

    words: ClassVar[TaskWords] = TaskWords("image-to-image", "SSIM", "%", is_higher_better=True)
    second: ClassVar[SecondWords | None] = SecondWords("PSNR", "dB")
    judges_by_marks: ClassVar[bool] = False
    low: float = 0.0
    high: float = 1.0
    """Range of the answers."""
    factor: float = 1.0
    """That brings targets to it."""

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data, with the scale that was found.

        Raises:
            DataError: Targets leave the range.
        """
        for what, images in data.image_sets().items():
            if images.labels is None or images.is_synthetic:
                continue
            values = images.labels.float() * self.factor
            low, high = float(values.min()), float(values.max())
            slack = 0.01 * (self.high - self.low)
            if low < self.low - slack or high > self.high + slack:
                raise DataError(
                    f"the {what} targets go from {low:g} to {high:g}, and pictures from "
                    f"{self.low:g} to {self.high:g}; give all targets on one scale"
                )
        said = f"targets are taken times {self.factor:.6g}, " if self.factor != 1 else ""
        text = f"{said}pictures are taken to go from {self.low:g} to {self.high:g}"
        return replace(data, warnings=(*data.warnings, text))

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Mean absolute difference as a share of the range, summed over the images."""
        if targets is None:
            return super().loss(answer, None)
        wanted = self._wanted(targets).to(answer)
        return (answer - wanted).abs().flatten(1).mean(1).sum() / (self.high - self.low)

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Mean squared difference as a share of the range's square, summed over the images."""
        share = (answer - wanted) / (self.high - self.low)
        return share.square().flatten(1).mean(1).sum()

    def augmented(
        self, images: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Images and targets mirrored alike; moved only where there are no targets."""
        if targets is None:
            return shifted_and_flipped(images, generator), None
        is_mirrored = (torch.rand(len(images), generator=generator) < 0.5)[:, None, None, None]
        both = (torch.where(is_mirrored.to(x.device), x.flip(3), x) for x in (images, targets))
        mirrored, wanted = both
        return mirrored, wanted

    def kept(self, answer: Tensor) -> Tensor:
        """Pictures within the range, float32."""
        return answer.float().clamp(self.low, self.high)

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Structural similarity of an image."""
        return self.figures(answers, targets)["ssim"]

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """Structural similarity and signal-to-noise ratio in dB of each image."""
        size, found = self.high - self.low, []
        for start in range(0, len(answers), _CHUNK):
            ours = answers[start : start + _CHUNK]
            wanted = self._wanted(targets[start : start + _CHUNK]).to(ours)
            error = (ours - wanted).square().flatten(1).mean(1).double() / size**2
            found.append((_ssim(ours / size, wanted / size), -10 * error.clamp_min(_TINY).log10()))
        similar, ratios = (torch.cat(parts).double() for parts in zip(*found, strict=True))
        return {"ssim": similar, "psnr": ratios}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Mean structural similarity."""
        return weights @ figures["ssim"] / weights.sum(1)

    def second_total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Mean signal-to-noise ratio, dB."""
        return weights @ figures["psnr"] / weights.sum(1)

    def _wanted(self, targets: Tensor) -> Tensor:
        return targets.float() * self.factor


def scaled_restoration(answer: Tensor, labels: Tensor) -> Restoration:
    """The scale on which the original's answers come closest to the targets.

    Args:
        answer: For a few images, [N, C, H, W].
        labels: Of the same images first.
    """
    some, most = labels[: len(answer)].float(), float(labels.max())
    factors = (1.0, 1 / _BYTE) if most > 2 else (1.0, _BYTE)
    errors = {f: float((answer - some * f).square().mean()) / max(f, 1.0) for f in factors}
    factor = min(errors, key=lambda f: errors[f])
    low, high = float(labels.min()) * factor, most * factor
    top = _BYTE if high > 2 else 1.0
    return Restoration(-top if low < -0.02 * top else 0.0, top, factor)


def _ssim(ours: Tensor, theirs: Tensor) -> Tensor:
    """Structural similarity of each image [N, C, H, W] in a range of 1, [N]."""
    ours, theirs = ours.double(), theirs.double()  # variances are small differences
    size = min(_WINDOW, ours.shape[2], ours.shape[3])
    places = torch.arange(size, dtype=ours.dtype) - (size - 1) / 2
    row = torch.exp(-(places**2) / (2 * _SIGMA**2))
    window = (row[:, None] * row / row.sum() ** 2).expand(ours.shape[1], 1, size, size)

    def mean(values: Tensor) -> Tensor:
        return functional.conv2d(values, window, groups=values.shape[1])

    first, second = mean(ours), mean(theirs)
    spread = mean(ours * ours) - first**2 + mean(theirs * theirs) - second**2
    shared = mean(ours * theirs) - first * second
    c1, c2 = _K1**2, _K2**2
    likeness = (2 * first * second + c1) * (2 * shared + c2)
    likeness = likeness / ((first**2 + second**2 + c1) * (spread + c2))
    return likeness.flatten(1).mean(1)
