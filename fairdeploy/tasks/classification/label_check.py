"""Whether the labels and the original's answers belong together, before anything is judged by them.

Wrong labels, a wrong order of the classes, a wrong preparation of the images or another task than
classification show in the same way: the original is right no more often than chance, or far less
often than it is sure of itself. Then no accuracy is claimed, and the usual causes are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits, ImageSet, NotJudged
from fairdeploy.tasks.base import NUM_ASKED, Original
from fairdeploy.tasks.classification.preparation_trials import (
    Numbering,
    Tried,
    matched_numbering,
    sorted_numberings,
    try_normalisations,
    try_preparations,
)

_LOOKS = (128, 512)
_DOUBT = 0.025
_SURE = 0.001
# Strict, since a network that answers by chance alone has such luck at times.
_BETTER_THAN_CHANCE = 0.005
# Strict, so that a handful of images does not condemn an honest network.
_BAD = 0.005
# Overfitted networks are honestly some ten or twenty points too sure of themselves.
_USUAL_OVERCONFIDENCE = 0.1
_GREAT_OVERCONFIDENCE = 0.3
_LEAST_GAIN = 0.1
_MOST_NAMES = 40
_NORM_IS_OFF = 0.1
# Of 64 numbers that mean no classes the highest is a given one by chance; a third never is.
_RIGHT_DESPITE_OTHER_COUNT = 0.3


@dataclass(frozen=True, slots=True)
class _Answers:
    """The original on labelled images."""

    predicted: Tensor
    labels: Tensor
    confidence: float

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def num_right(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_images

    @property
    def chance(self) -> float:
        """Share right if answers and labels were as frequent as they are, and independent."""
        size = 1 + int(max(self.predicted.max(), self.labels.max()))
        shares = [torch.bincount(x, minlength=size) / len(x) for x in (self.predicted, self.labels)]
        return float((shares[0] * shares[1]).sum())

    def is_at_chance(self) -> bool:
        """No better than chance, and surely worse than half way from there to perfect."""
        chance, count, right = self.chance, self.num_images, self.num_right
        if chance >= 1:
            return False
        is_no_better = 1 - binomial_cdf(right - 1, count, chance) > _BETTER_THAN_CHANCE
        kappa = (self.accuracy - chance) / (1 - chance)
        is_bad = binomial_cdf(right, count, (1 + chance) / 2) < _BAD
        return is_no_better and is_bad and kappa < 0.2

    def is_far_below_confidence(self) -> bool:
        """Surely right less than half as often as it is sure."""
        is_far = self.confidence - self.accuracy > _GREAT_OVERCONFIDENCE
        return is_far and binomial_cdf(self.num_right, self.num_images, self.confidence / 2) < _SURE

    def is_doubtful(self) -> bool:
        """Surely less right than even an overfitted network is."""
        expected = self.confidence - _USUAL_OVERCONFIDENCE
        return expected > 0 and binomial_cdf(self.num_right, self.num_images, expected) < _DOUBT


def check_original(data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
    """The data as it is, or without its labels and with the reason in ``not_judged``.

    Args:
        data: As read.
        original: The network, and how to prepare a few images in another way.
        names_are_given: Whether the user gave the order of the classes.
    """
    images = _judged_on(data)
    if not images:
        return data
    answers = _answers(images, original, _LOOKS[0])
    names = None if names_are_given else data.class_names
    is_other_count = names is not None and len(names) != original.num_outputs
    if not (answers.is_at_chance() or answers.is_doubtful() or is_other_count):
        return _with_hint(data, images[0], original)
    answers = _answers(images, original, _LOOKS[1])
    found = _finding(
        answers, original, names, is_other_count=is_other_count, all_names=data.class_names
    )
    return data if found is None else _without_labels(data, found)


def _with_hint(data: DataSplits, images: ImageSet, original: Original) -> DataSplits:
    """With a warning where another usual normalisation surely makes more images right.

    It is looked for where what reaches the first batch norm is not what it was trained on.
    """
    off = original.norm_distance(_spread(images, NUM_ASKED))
    if original.reread is None or off is None or off <= _NORM_IS_OFF:
        return data
    tried = try_normalisations(original)
    best = max(tried, key=lambda one: one.rank, default=None)
    if best is None or not _is_surely_better(best, tried[0]):
        return data
    hint = (
        f"the original has {tried[0].accuracy:.1%} of {len(best.right)} images right as they are "
        f"prepared, and {best.accuracy:.1%} with {best.trial(tried[0].preprocessing).options}: it "
        "was probably trained so; add that, or all figures of accuracy are too low"
    )
    return replace(data, warnings=(*data.warnings, hint))


def check_labels_fit(splits: DataSplits, num_outputs: int) -> None:
    """Check the labels against the length of the model's output.

    Raises:
        DataError: A label or a class name has no output of its own.
    """
    if splits.class_names is not None and len(splits.class_names) > num_outputs:
        raise DataError(
            f"the data has {len(splits.class_names)} classes, the model {num_outputs} outputs; "
            "give the data that it was trained for"
        )
    for what, images in splits.image_sets().items():
        if images.labels is None or not len(images):
            continue
        highest, lowest = int(images.labels.max()), int(images.labels.min())
        if lowest < 0:
            raise DataError(f"a {what} image has the label {lowest}; give class numbers from 0")
        if highest >= num_outputs:
            raise DataError(
                f"a {what} image has the label {highest}, but the model has {num_outputs} outputs; "
                "give the data that it was trained for"
            )


def binomial_cdf(most: int, count: int, share: float) -> float:
    """Probability of at most ``most`` hits in ``count`` tries."""
    if most < 0 or share >= 1:
        return 0.0 if most < count else 1.0
    if share <= 0 or most >= count:
        return 1.0
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(most + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def _judged_on(data: DataSplits) -> tuple[ImageSet, ...]:
    """Labelled images that are held out, else those for calibration."""

    def usable(sets: tuple[ImageSet | None, ...]) -> tuple[ImageSet, ...]:
        return tuple(images for images in sets if images is not None and _has_classes(images))

    return usable((data.test, data.selection)) or usable((data.calibration,))


def _has_classes(images: ImageSet) -> bool:
    labels = images.labels
    is_class = labels is not None and labels.dim() == 1 and not labels.is_floating_point()
    return is_class and len(images) > 0 and not images.is_synthetic


def _answers(sets: Sequence[ImageSet], original: Original, count: int) -> _Answers:
    """On images evenly spread over all, whose order is that of the classes."""
    chosen = [_spread(images, count // len(sets)) for images in sets]
    scores = torch.cat([original.answers(images).float() for images in chosen])
    labels = torch.cat([images.labels for images in chosen if images.labels is not None])
    is_share = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(len(scores)))
    shares = scores if is_share else scores.softmax(1)
    return _Answers(scores.argmax(1), labels, float(shares.amax(1).mean()))


def _spread(images: ImageSet, count: int) -> ImageSet:
    places = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return replace(
        images,
        images=images.images[places],
        labels=None if images.labels is None else images.labels[places],
        others={name: tensor[places] for name, tensor in images.others.items()},
    )


def _finding(
    answers: _Answers,
    original: Original,
    names: Sequence[str] | None,
    *,
    is_other_count: bool,
    all_names: Sequence[str] | None,
) -> NotJudged | None:
    count, right = answers.num_images, answers.num_right
    is_right = 1 - binomial_cdf(right - 1, count, _RIGHT_DESPITE_OTHER_COUNT) < _DOUBT
    if is_other_count and names is not None and not is_right:
        return _other_task(answers, original, names)
    is_hopeless = answers.is_at_chance() or answers.is_far_below_confidence()
    if not (is_hopeless or answers.is_doubtful()):
        return None
    tried = try_preparations(original, names) if original.reread is not None else ()
    numbering = _better_numbering(answers, original, names, all_names)
    best = max(tried, key=lambda one: one.rank, default=None)
    if best is not None and numbering is None and _is_surely_better(best, tried[0]):
        return _prepared_otherwise(answers, best, tried)
    if numbering is not None:
        return _numbered_otherwise(answers, numbering)
    return _unexplained(answers, tried) if is_hopeless else None


def _is_surely_better(best: Tried, usual: Tried) -> bool:
    """By the images that only one of them has right (exact sign test)."""
    gained = int((best.right & ~usual.right).sum())
    lost = int((usual.right & ~best.right).sum())
    is_much = (gained - lost) / len(best.right) >= _LEAST_GAIN
    return is_much and binomial_cdf(lost, gained + lost, 0.5) < _SURE


def _better_numbering(
    answers: _Answers,
    original: Original,
    names: Sequence[str] | None,
    all_names: Sequence[str] | None,
) -> tuple[Numbering, float, int] | None:
    """An order that makes far more images right: folders sorted otherwise, or any other one.

    What is found by the answers themselves is found on every second image and judged on the others.
    """
    predicted, labels = answers.predicted[1::2], answers.labels[1::2]
    before = int((predicted == labels).sum())
    matched = matched_numbering(
        answers.predicted[::2], answers.labels[::2], all_names, original.num_outputs
    )
    in_order = [replace(one, options=f"add {one.options}") for one in sorted_numberings(names)]
    for numbering in (*in_order, *([matched] if matched else [])):
        accuracy = float((predicted == numbering.places[labels]).float().mean())
        if binomial_cdf(before, len(labels), max(0.0, accuracy - _LEAST_GAIN)) < _SURE:
            return numbering, accuracy, len(labels)
    return None


def _reason(answers: _Answers) -> str:
    right = f"the original has {answers.accuracy:.1%} of {answers.num_images} labelled images right"
    if answers.is_at_chance():
        return f"{right}, no more than chance would ({answers.chance:.1%})"
    return f"{right}, though it is {answers.confidence:.0%} sure of its answers on average"


def _prepared_otherwise(answers: _Answers, best: Tried, tried: Sequence[Tried]) -> NotJudged:
    usual = tried[0]
    trial = best.trial(usual.preprocessing)
    before, after, norm = usual.norm_distance, best.norm_distance, ""
    if before is not None and after is not None and before > max(_NORM_IS_OFF, 2 * after):
        norm = (
            f" (its first norm sees values {before:.2g} deviations off its running mean, then "
            f"{after:.2g})"
        )
    remedy = (
        f"add {trial.options}: {best.accuracy:.1%} of {len(best.right)} images instead of "
        f"{usual.accuracy:.1%}{norm}"
    )
    return _not_judged(answers, _reason(answers), remedy, tried)


def _numbered_otherwise(answers: _Answers, found: tuple[Numbering, float, int]) -> NotJudged:
    numbering, accuracy, count = found
    is_long = numbering.options.count(",") >= _MOST_NAMES
    options = "give the classes in the network's own order" if is_long else numbering.options
    remedy = (
        "its answers name other numbers than the labels, one for each class: "
        f"{options}: {accuracy:.1%} of {count} images"
    )
    return _not_judged(answers, _reason(answers), remedy, ())


def _other_task(answers: _Answers, original: Original, names: Sequence[str]) -> NotJudged:
    reason = (
        f"the network has {original.num_outputs} outputs and the data {len(names)} classes, and "
        f"the highest output is the image's class for {answers.accuracy:.1%} of "
        f"{answers.num_images} images: the outputs are not these classes"
    )
    remedy = (
        "name the classes of all outputs in their order (--class-names, or class_names in "
        "fairdeploy.toml); where the answers are no classes say --task imitation"
    )
    return _not_judged(answers, reason, remedy, ())


def _unexplained(answers: _Answers, tried: Sequence[Tried]) -> NotJudged:
    ways = (
        f"{len(tried) - 1} other ways of preparation and order were tried, none is surely better; "
    )
    remedy = (
        f"{ways if len(tried) > 1 else ''}check that the labels, their order and the weights are "
        "those of this network, or give --mean, --std, --crop-mode and --class-names as in training"
    )
    return _not_judged(answers, _reason(answers), remedy, tried)


def _not_judged(answers: _Answers, reason: str, remedy: str, tried: Sequence[Tried]) -> NotJudged:
    trials = sorted(tried, key=lambda one: one.rank, reverse=True)
    return NotJudged(
        reason,
        remedy,
        answers.accuracy,
        answers.num_images,
        tuple(one.trial(tried[0].preprocessing) for one in trials),
    )


def _without_labels(data: DataSplits, found: NotJudged) -> DataSplits:
    """The network's own answers take the place of the labels; nothing is tested."""
    return replace(
        data.unlabelled(),
        not_judged=found,
        warnings=(
            *data.warnings,
            f"ACCURACY NOT JUDGED: {found.text}. The network's own answers serve as classes",
        ),
    )
