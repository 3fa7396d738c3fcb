"""Reads the chosen images, checks them, and keeps the same image from serving two purposes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.inputs.fingerprint import sha256_of_images
from fairdeploy.inputs.image_pool import ImagePool, Indices, PooledData
from fairdeploy.inputs.sampling import Choice
from fairdeploy.records import DataSplits, ImageSet, TrainingImages

_MIN_CALIBRATION = 2
_LEARNED = 1.96
"""Standard deviations; a network is that much more often right about images that it learned."""
_MAX_BYTES = 2**30
_MOST_SPARE = 1_000
"""Of a difference of two points this many show most."""


def read_choice(spec: str, data: PooledData, choice: Choice) -> DataSplits:
    """The chosen images; what is left to train on is only read when it is needed.

    The choice never takes an image twice. That the same image lies in the training and in the test
    pool is found by its pixels: then it stays in the test.

    Args:
        spec: As the user typed it, for messages.
        data: The pools that ``choice`` is from.
        choice: Disjoint.

    Raises:
        DataError: Images cannot be read, are of one class, or are all copies of test images.
    """
    held_out = data.test or data.train
    calibration, warnings = _read_set(spec, data.train, choice.calibration)
    _check_classes(spec, calibration)
    test: ImageSet | None = None
    if held_out.is_labelled and len(choice.test):
        test, more = _read_set(spec, held_out, choice.test)
        warnings += more
    elif calibration.labels is not None:
        warnings += ("no labelled images are left for a test; accuracy is not measured",)
    selection: ImageSet | None = None
    if len(choice.selection):
        selection, more = _read_set(spec, held_out, choice.selection)
        warnings += more

    tested = set() if test is None else set(digests(test))
    if selection is not None:
        selection, more = _apart(selection, tested, "selection")
        warnings += more
        tested |= set(digests(selection))
    calibration, more = _apart(calibration, tested, "calibration")
    _check_apart(spec, calibration)
    _check_classes(spec, calibration)
    training = _training(spec, data.train, choice.training, frozenset(tested))
    return DataSplits(
        calibration=calibration,
        test=test,
        class_names=data.class_names,
        source=spec,
        sha256=sha256_of_images(calibration),
        warnings=data.warnings + warnings + more,
        selection=selection,
        training=training,
        preprocessing=data.preprocessing,
    )


def with_spare_selection(data: DataSplits, limit: int) -> DataSplits:
    """Some of what is left for training, evenly spread, is read to choose with; the rest is not.

    Args:
        data: Returned unchanged where nothing is left.
        limit: At most this many, and no more than show a difference of two points.
    """
    if data.training is None:
        return data
    images = _spread(data.training, min(limit, _MOST_SPARE))
    return replace(data, selection=images if len(images) else None, training=None)


def with_rest_selected(
    data: DataSplits, limit: int, right: Callable[[ImageSet], Tensor]
) -> DataSplits:
    """Whatever labelled images are left are selected with, too, unless the network learned them.

    A network has images that it was trained on right more often than others, and loses more of
    them when it is pruned: they would show a larger drop than there is.

    Args:
        data: Returned without training images.
        limit: Of selection images, in all.
        right: For each image of a set whether the network is right, bool [N].
    """
    selection, training = data.selection, data.training
    data = replace(data, training=None)
    if selection is None or selection.labels is None or training is None or not training.has_labels:
        return data
    fitting = _MAX_BYTES // selection.images[0].nbytes
    rest = _spread(training, max(min(limit, fitting) - len(selection), 0))
    if rest.labels is None or not len(rest):
        return data
    held_out, left = right(selection).double(), right(rest).double()
    both = torch.cat([held_out, left]).mean()
    spread = (both * (1 - both) * (1 / len(held_out) + 1 / len(left))).sqrt()
    if left.mean() - held_out.mean() > _LEARNED * spread:
        text = (
            f"{training.num_images:,} labelled images beside the test ones are not selected with: "
            f"the network seems to have learned them ({left.mean():.1%} right, and "
            f"{held_out.mean():.1%} of those held out)"
        )
        return replace(data, warnings=(*data.warnings, text))
    return replace(data, selection=_joined(selection, rest))


def _joined(first: ImageSet, more: ImageSet) -> ImageSet:
    """Of two labelled sets one."""
    assert first.labels is not None
    assert more.labels is not None
    return replace(
        first,
        images=torch.cat([first.images, more.images]),
        labels=torch.cat([first.labels, more.labels]),
        others={name: torch.cat([t, more.others[name]]) for name, t in first.others.items()},
    )


def _spread(images: TrainingImages, count: int) -> ImageSet:
    """About so many of them, evenly spread."""
    places = np.linspace(0, images.num_images - 1, min(images.num_images, count))
    return images.fetch(np.unique(places.round().astype(np.int64)))


def _apart(images: ImageSet, known: set[bytes], kind: str) -> tuple[ImageSet, tuple[str, ...]]:
    kept = without_copies(images, known)
    copies = len(images) - len(kept)
    if not copies:
        return kept, ()
    are = "image is a copy" if copies == 1 else "images are copies"
    return kept, (f"{copies} {kind} {are} of held-out images and left out",)


def _check_apart(spec: str, calibration: ImageSet) -> None:
    if len(calibration) < _MIN_CALIBRATION:
        raise DataError(
            f"the images of '{spec}' to calibrate with are those to test with; give other images "
            "for one of them"
        )


def _check_classes(spec: str, calibration: ImageSet) -> None:
    labels = calibration.labels
    if labels is None or not len(labels) or labels.dim() > 1:
        return
    if bool((labels == labels[0]).all()):
        raise DataError(
            f"the calibration images of '{spec}' are all of class {labels[0].item():g}; "
            "at least two classes are needed"
        )


def _training(
    spec: str, pool: ImagePool, indices: Indices, held_out: frozenset[bytes]
) -> TrainingImages | None:
    if not len(indices):
        return None

    def fetch(places: NDArray[np.int64]) -> ImageSet:
        return without_copies(_read_set(spec, pool, indices[places])[0], held_out)

    return TrainingImages(len(indices), pool.is_labelled, fetch)


def _read_set(spec: str, pool: ImagePool, indices: Indices) -> tuple[ImageSet, tuple[str, ...]]:
    fetched = pool.fetch(indices)
    finite = torch.isfinite(fetched.images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        first = int(fetched.indices[int((~finite).nonzero()[0])])
        raise DataError(f"image {first} of '{spec}' holds NaN or infinite values; remove it")
    at = torch.from_numpy(fetched.indices)
    others = {name: tensor[at] for name, tensor in pool.others.items()}
    labels = fetched.labels
    if pool.labels is not None:
        labels = torch.from_numpy(pool.labels[fetched.indices])
    if labels is None:
        return ImageSet(fetched.images, None, "none", others=others), fetched.warnings
    return ImageSet(fetched.images, labels, "given", others=others), fetched.warnings


# ---- finds the same image in two sets, whatever its file is called -------------------------------


def digests(images: ImageSet) -> list[bytes]:
    """One hash for each image with what the network's other inputs take beside it."""
    tensors = [images.images, *(images.others[name] for name in sorted(images.others))]
    rows = [tensor.contiguous().flatten(1) if tensor.dim() > 1 else tensor for tensor in tensors]
    return [
        hashlib.blake2b(b"".join(row[i].numpy().tobytes() for row in rows), digest_size=16).digest()
        for i in range(len(images))
    ]


def without_copies(images: ImageSet, known: Iterable[bytes]) -> ImageSet:
    """The images whose hash is not among ``known``; the set itself if that is all of them."""
    hashes = frozenset(known)
    stays = torch.tensor([digest not in hashes for digest in digests(images)], dtype=torch.bool)
    return images if bool(stays.all()) else images.part(stays)
