"""Whether an exported file gives what the torch network gives, and how accurate either is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.errors import DataError, ParityError
from fairdeploy.records import AccuracyEstimate, ParityResult

Outputs = tuple[NDArray[np.float64], ...]
Reference = Callable[[Tensor], object]

CALLS_PER_BATCH_SIZE = 4
_MATRIX = 2
_TINY = 1e-30
_Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


def check_parity(
    runner: Runner,
    reference: Reference,
    artifact: str,
    inputs: Tensor,
    *,
    batches: tuple[int, ...] = (1, 3),
    limit: float,
) -> tuple[ParityResult, ...]:
    """Compare a file with the torch network at each batch size, on several batches of each.

    Args:
        runner: The opened file.
        reference: The torch network; returns a tensor or a nest of tensors.
        artifact: Name of the file, for the report.
        inputs: Images [N, C, H, W]; used in turn, again from the first if there are too few.
        batches: Batch sizes to run.
        limit: Largest allowed difference, relative to the reference's largest output value.

    Raises:
        DataError: There are no images.
    """
    if len(inputs) == 0:
        raise DataError("parity needs at least 1 image, got 0")
    return tuple(
        _parity_at(runner, reference, inputs, artifact=artifact, batch=size, limit=limit)
        for size in batches
    )


def require_parity(results: tuple[ParityResult, ...]) -> None:
    """Raise for the batch size that differs most, if any is above its limit.

    Raises:
        ParityError: An error is above the limit, or not a number.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    worst = max(failed, key=lambda result: np.nan_to_num(result.max_relative_error, nan=np.inf))
    how_far = (
        f"by {worst.max_relative_error:.1e} of the output's scale"
        if np.isfinite(worst.max_relative_error)
        else "in shape, or is not a number"
    )
    raise ParityError(
        f"'{worst.artifact}' differs from the torch network {how_far} at batch {worst.batch}, "
        f"limit {worst.limit:.0e}; raise parity_limit in the target profile only if that is "
        "acceptable"
    )


def predict(
    network: Callable[[Tensor], object] | Runner,
    images: Tensor,
    batch: int,
    *,
    is_batch_fixed: bool = False,
) -> Tensor:
    """First output for all images, float32 [N, …], computed in batches.

    Args:
        network: A torch network or an opened file.
        images: Float32 [N, C, H, W].
        batch: Images per call.
        is_batch_fixed: The network takes exactly ``batch`` images; the last batch is filled up.

    Raises:
        DataError: There are no images.
    """
    if len(images) == 0:
        raise DataError("there are no images to predict")
    parts = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        missing = batch - len(chunk) if is_batch_fixed else 0
        filled = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])
        first = next(_flat_arrays(_call(network, filled)))
        parts.append(torch.from_numpy(first[: len(chunk)].astype(np.float32)))
    return torch.cat(parts)


def accuracy_from_predictions(logits: Tensor, labels: Tensor) -> AccuracyEstimate:
    """Share of right answers with its 95 % Wilson score interval.

    Args:
        logits: Scores per class, [N, classes].
        labels: Right classes, int64 [N].

    Raises:
        DataError: The shapes do not fit.
    """
    if logits.dim() != _MATRIX or len(logits) != len(labels) or len(labels) == 0:
        raise DataError(
            f"accuracy needs logits [N, classes] and labels [N], got {list(logits.shape)} and "
            f"{list(labels.shape)}"
        )
    num_right = int((logits.argmax(1) == labels).sum())
    return wilson_interval(num_right, len(labels))


def wilson_interval(num_right: int, num_images: int) -> AccuracyEstimate:
    """The 95 % score interval of a share (Wilson 1927); honest near 0 and 1 too."""
    share = num_right / num_images
    spread = _Z_95**2 / num_images
    centre = (share + spread / 2) / (1 + spread)
    half = (spread * share * (1 - share) + spread**2 / 4) ** 0.5 / (1 + spread)
    # Rounding may put the bound of 0 or of 1 right answers a hair inside.
    low, high = min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
    return AccuracyEstimate(share, low, high, num_images)


def _parity_at(
    runner: Runner,
    reference: Reference,
    inputs: Tensor,
    *,
    artifact: str,
    batch: int,
    limit: float,
) -> ParityResult:
    error, agreements = 0.0, []
    for call in range(CALLS_PER_BATCH_SIZE):
        order = torch.arange(call * batch, (call + 1) * batch) % len(inputs)
        images = inputs[order]
        ours = _arrays(_call(runner, images))
        theirs = _arrays(_call(reference, images))
        error = max(error, _relative_error(ours, theirs))
        agreements.append(_top1_agreement(ours, theirs))
    return ParityResult(artifact, batch, error, limit, float(np.mean(agreements)))


def _call(network: Callable[[Tensor], object] | Runner, images: Tensor) -> object:
    if isinstance(network, Runner):
        return network.run((np.ascontiguousarray(images.numpy()),))
    with torch.no_grad():
        return network(images)


def _arrays(outputs: object) -> Outputs:
    return tuple(array.astype(np.float64) for array in _flat_arrays(outputs))


def _flat_arrays(outputs: object) -> Iterator[NDArray[np.generic]]:
    """Every tensor in a nest, in the order in which torch.export flattens it."""
    if isinstance(outputs, Tensor):
        yield outputs.detach().cpu().numpy()
    elif isinstance(outputs, np.ndarray):
        yield outputs
    elif isinstance(outputs, dict):
        yield from _flat_arrays(list(outputs.values()))
    elif isinstance(outputs, (tuple, list)):
        for output in outputs:
            yield from _flat_arrays(output)


def _relative_error(ours: Outputs, theirs: Outputs) -> float:
    """Largest difference over all outputs, each relative to its own largest value."""
    if not theirs or [array.shape for array in ours] != [array.shape for array in theirs]:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.size == 0:
            continue
        error = float(np.abs(a - b).max() / max(float(np.abs(b).max()), _TINY))
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def _top1_agreement(ours: Outputs, theirs: Outputs) -> float:
    """Share of images whose largest logit is the same class; NaN if there are no logits."""
    if not ours or not theirs or theirs[0].ndim != _MATRIX:
        return float("nan")
    if ours[0].shape != theirs[0].shape:
        return 0.0
    return float((ours[0].argmax(1) == theirs[0].argmax(1)).mean())
