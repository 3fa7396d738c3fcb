"""Which other way of preparing or numbering the images suits the original better.

Tried are the usual normalisations, channel orders, ways of resizing, whites and orders of the class
folders, one change after the other as long as each is a gain, on a few labelled images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairdeploy.errors import FairdeployError
from fairdeploy.records import ImageSet, PreparationTrial, Preprocessing
from fairdeploy.records.inputs import WHITES, natural_key
from fairdeploy.tasks.base import Original

_MAX_CHANGES = 3
_LEAST_GAIN = 0.03

_NORMALISATIONS = {
    3: (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.0,) * 3, (1.0,) * 3),
        ((0.0,) * 3, (1 / 255,) * 3),
    ),
    1: (((0.5,), (0.5,)), ((0.1307,), (0.3081,)), ((0.0,), (1.0,)), ((0.0,), (1 / 255,))),
}


@dataclass(frozen=True, slots=True)
class Numbering:
    """Another order of the classes."""

    options: str
    places: Tensor
    """New number of each old one."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One way, with what the network says."""

    preprocessing: Preprocessing
    numbering: Numbering
    images: ImageSet
    right: Tensor
    norm_distance: float | None

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.float().mean())

    @property
    def rank(self) -> tuple[float, float]:
        """The higher the better; what reaches the first norm breaks ties."""
        return self.accuracy, -(self.norm_distance or 0.0)

    def trial(self, usual: Preprocessing) -> PreparationTrial:
        """What the report says of it."""
        options = " ".join((*changed_options(usual, self.preprocessing), self.numbering.options))
        return PreparationTrial(options.strip(), self.accuracy, self.norm_distance)


def try_normalisations(original: Original) -> tuple[Tried, ...]:
    """The way of this run first, then the other usual normalisations with everything else as is."""
    usual = original.preprocessing
    numberings = (usual_numbering(original.num_outputs),)
    ways = (usual, *_normalisations(usual))
    return tuple(tried for way in ways for tried in _tried(original, way, numberings))


def try_preparations(original: Original, names: Sequence[str] | None) -> tuple[Tried, ...]:
    """The way of this run first, then whatever was tried.

    Args:
        original: Its ``reread`` is not None.
        names: Class folders in their order, where another one is possible.
    """
    numberings = (usual_numbering(original.num_outputs), *sorted_numberings(names))
    found = list(_tried(original, original.preprocessing, numberings))
    if not found:
        return ()
    best = max(found, key=lambda tried: tried.rank)
    for _ in range(_MAX_CHANGES):
        more = [
            tried
            for other in _changes(best.preprocessing)
            for tried in _tried(original, other, numberings)
        ]
        found += more
        better = max((best, *more), key=lambda tried: tried.rank)
        if better.accuracy < best.accuracy + _LEAST_GAIN:
            break
        best = better
    return tuple(found)


def changed_options(usual: Preprocessing, other: Preprocessing) -> Iterator[str]:
    """What to type for the other way."""
    if (usual.mean, usual.std) != (other.mean, other.std):
        yield f"--mean {_numbers(other.mean)} --std {_numbers(other.std)}"
    for option, name in (
        ("--crop-mode", "crop_mode"),
        ("--crop-pct", "crop_pct"),
        ("--channel-order", "channel_order"),
        ("--white", "white"),
    ):
        value = getattr(other, name)
        if value != getattr(usual, name):
            yield f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"


def matched_numbering(
    predicted: Tensor, labels: Tensor, names: Sequence[str] | None, count: int
) -> Numbering | None:
    """The order in which each class gets its most frequent answer; None unless one to one."""
    if names is not None and len(names) != count:
        return None
    table = torch.zeros(count, count, dtype=torch.int64)
    table.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    places = table.argmax(1)
    if sorted(places.tolist()) != list(range(count)) or bool((table.sum(1) == 0).any()):
        return None
    if names is None:
        numbers = ", ".join(f"{old} is its {int(new)}" for old, new in enumerate(places))
        return Numbering(f"renumber the labels ({numbers})", places)
    ordered = [names[int(place)] for place in places.argsort()]
    return Numbering(f"add --class-names {','.join(ordered)}", places)


def _tried(
    original: Original, preprocessing: Preprocessing, numberings: Sequence[Numbering]
) -> Iterator[Tried]:
    assert original.reread is not None
    try:
        images = original.reread(preprocessing)
    except FairdeployError:
        return
    if images.labels is None or not len(images):
        return
    predicted = original.answers(images).argmax(1)
    distance = original.norm_distance(images)
    for numbering in numberings:
        labels = numbering.places[images.labels]
        yield Tried(preprocessing, numbering, images, predicted == labels, distance)


def _changes(usual: Preprocessing) -> Iterator[Preprocessing]:
    """One change each."""
    others = [
        *_normalisations(usual),
        replace(usual, crop_mode="squash", crop_pct=1.0),
        replace(usual, crop_mode="center", crop_pct=1.0),
        replace(usual, crop_mode="center", crop_pct=0.875),
        replace(usual, crop_mode="border", crop_pct=1.0),
    ]
    if usual.channels == 3:
        others.append(
            replace(usual, channel_order="rgb" if usual.channel_order == "bgr" else "bgr")
        )
    if usual.white is not None:
        others += [replace(usual, white=white) for white in WHITES]
    return iter([other for other in others if other != usual])


def _normalisations(usual: Preprocessing) -> list[Preprocessing]:
    """The other usual ones."""
    known = _NORMALISATIONS.get(usual.channels, ())
    ways = [replace(usual, mean=mean, std=std) for mean, std in known]
    return [way for way in ways if way != usual]


def usual_numbering(num_outputs: int) -> Numbering:
    """The order as it is."""
    return Numbering("", torch.arange(num_outputs))


def sorted_numberings(names: Sequence[str] | None) -> Iterator[Numbering]:
    """The two ways of sorting, where they are another order."""
    if names is None or len(names) < 2:
        return
    orders = {"natural": sorted(names, key=natural_key), "text": sorted(names)}
    for option, order in orders.items():
        if order != list(names):
            places = torch.tensor([order.index(name) for name in names])
            yield Numbering(f"--class-order {option}", places)


def _numbers(values: Sequence[float]) -> str:
    distinct = values[:1] if len(set(values)) == 1 else values
    return ",".join(f"{value:.6g}" for value in distinct)
