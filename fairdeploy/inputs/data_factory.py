"""Images from the user's own data loader, which has resized and normalised them already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.inputs.factories import load_factory, one_line
from fairdeploy.inputs.image_pool import (
    Fetched,
    ImagePool,
    Indices,
    PooledData,
    Targets,
    check_labels,
)
from fairdeploy.inputs.other_inputs import Wanted, items_of
from fairdeploy.inputs.random_state import seeded_random_state
from fairdeploy.records import Preprocessing

_LABEL_KEYS = ("labels", "label")


def open_data_factory(
    spec: str,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    wanted: Wanted | None = None,
    *,
    max_images: int,
    seed: int,
) -> PooledData:
    """Call the user's factory and read the loader, or the (train, test) loaders, it returns.

    Args:
        spec: ``package.module:factory`` or ``path/to/file.py:factory``.
        preprocessing: Its shape is what every image must have.
        class_names: Names of the classes, if known.
        wanted: Other inputs to look for: then a batch may hold a dictionary by input name in place
            of the images.
        max_images: How many images of a loader are kept; the rest is not read.
        seed: Of loaders that shuffle; the caller's random state stays as it was.

    Raises:
        DataError: The factory fails, or its batches are not images of the model's shape.
    """
    factory = load_factory(spec, DataError)
    with seeded_random_state(seed):
        try:
            loaders = factory()
        except Exception as error:  # user code
            raise _failure(spec, error) from error
        pair = loaders if isinstance(loaders, (tuple, list)) else (loaders,)
        if len(pair) not in (1, 2) or not all(isinstance(loader, Iterable) for loader in pair):
            raise DataError(
                f"'{spec}' returned a {type(loaders).__name__}; it must return a DataLoader or a "
                "pair of them (train, test)"
            )
    return open_loaders(
        spec, tuple(pair), preprocessing, class_names, wanted, max_images=max_images, seed=seed
    )


def open_loaders(
    spec: str,
    loaders: tuple[Iterable[object], ...],
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    wanted: Wanted | None = None,
    *,
    max_images: int,
    seed: int,
) -> PooledData:
    """Read one loader, or one to learn from and one to test on; ``spec`` is what they are called.

    Raises:
        DataError: A loader fails, or its batches are not images of the model's shape.
    """
    wanted = wanted or Wanted("image", {})
    with seeded_random_state(seed):
        pools = [
            _read_loader(spec, one, preprocessing, class_names, wanted, max_images)
            for one in loaders
        ]
    names = tuple(class_names) if class_names is not None else None
    return PooledData(pools[0], pools[1] if len(pools) == 2 else None, names)


def _read_loader(
    spec: str,
    loader: Iterable[object],
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    wanted: Wanted,
    max_images: int,
) -> ImagePool:
    images: list[Tensor] = []
    labels: list[Tensor] = []
    others: dict[str, list[Tensor]] = {}
    num_images = 0
    try:
        for batch in loader:
            given, rest = _taken_apart(spec, batch, wanted)
            batch_images, batch_labels = _split_batch(spec, given, preprocessing)
            for name, tensor in rest.items():
                where = f"of '{spec}'"
                checked = wanted.checked(name, tensor, len(batch_images), where)
                others.setdefault(name, []).append(checked)
            images.append(batch_images)
            num_images += len(batch_images)
            if batch_labels is not None:
                labels.append(batch_labels)
            if num_images >= max_images:
                break
    except DataError:
        raise
    except Exception as error:  # user code
        raise _failure(spec, error) from error
    if not images:
        raise DataError(f"the loader of '{spec}' is empty; it must yield at least one batch")
    pool = _pool_of(spec, torch.cat(images), labels, class_names)
    return replace(pool, others={name: torch.cat(parts) for name, parts in others.items()})


def _taken_apart(spec: str, batch: object, wanted: Wanted) -> tuple[object, dict[str, Tensor]]:
    """A batch as images with their labels, and the tensors of other inputs."""
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    named = parts[0] if parts else None
    if not isinstance(named, Mapping):
        return batch, {}
    if wanted.image_name not in named:
        raise DataError(
            f"the loader of '{spec}' yields dictionaries with {', '.join(map(repr, named))}; the "
            f"images must be called '{wanted.image_name}', as in the model's forward"
        )
    missing = [name for name in wanted.others if not isinstance(named.get(name), Tensor)]
    if missing:
        raise DataError(f"the loader of '{spec}' yields no tensor '{missing[0]}'; add it")
    label = [named[key] for key in _LABEL_KEYS if key in named and key not in wanted.others]
    others = {name: named[name] for name in wanted.others}
    return [named[wanted.image_name], *parts[1:], *label], others


def _split_batch(
    spec: str, batch: object, preprocessing: Preprocessing
) -> tuple[Tensor, Tensor | None]:
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    tensors = [part for part in parts[:2] if isinstance(part, Tensor)]
    if len(tensors) != len(parts[:2]) or not tensors:
        raise DataError(
            f"the loader of '{spec}' yields {type(batch).__name__} batches; "
            "it must yield a tensor of images, (images, labels), or for several inputs "
            "({name: tensor}, labels)"
        )
    labels = tensors[1].detach().cpu() if len(tensors) == 2 else None
    if preprocessing.item is not None:
        return items_of(tensors[0], preprocessing.item, f"a batch of '{spec}'"), labels
    images = tensors[0].detach().cpu().float()
    if tuple(images.shape[1:]) != preprocessing.shape:
        raise DataError(
            f"the loader of '{spec}' yields batches of shape {list(images.shape)}; "
            f"the model takes [N, {', '.join(map(str, preprocessing.shape))}]"
        )
    return images, labels


def _pool_of(
    spec: str, images: Tensor, labels: list[Tensor], class_names: Sequence[str] | None
) -> ImagePool:
    numbers: Targets | None = None
    if labels:
        try:
            array = torch.cat(labels).numpy()
        except RuntimeError as error:
            raise DataError(
                f"the labels of '{spec}' are of different shapes: "
                f"{' and '.join(str(list(each.shape[1:])) for each in labels[:2])} an image"
            ) from error
        numbers = check_labels(array, len(images), f"the loader of '{spec}'", class_names)

    def fetch(indices: Indices) -> Fetched:
        return Fetched(images[torch.from_numpy(np.asarray(indices))], indices)

    return ImagePool(len(images), numbers, fetch)


def _failure(spec: str, error: Exception) -> DataError:
    return DataError(f"'{spec}' fails with {type(error).__name__}: {one_line(error)}")
