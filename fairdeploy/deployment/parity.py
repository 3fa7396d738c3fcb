"""Whether an exported file gives what the torch network gives, and how accurate either is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.output_columns import compare_columns
from fairdeploy.errors import DataError, ParityError
from fairdeploy.records import ParityResult
from fairdeploy.tasks.base import Task

Inputs = tuple[Tensor, ...]
"""One tensor per input of the network."""
Outputs = tuple[NDArray[np.float64], ...]
Reference = Callable[..., object]
BatchDims = tuple[int, ...]

CALLS_PER_BATCH_SIZE = 4
_MAX_COLUMN_ERROR = 0.1
_TINY = 1e-30


def check_parity(
    runner: Runner,
    reference: Reference,
    artifact: str,
    inputs: Tensor | Inputs,
    *,
    batches: tuple[int, ...] = (1, 3),
    limit: float,
    max_column_error: float = _MAX_COLUMN_ERROR,
    image_size: str = "",
    main_output: int = 0,
    task: Task | None = None,
    batch_dims: BatchDims = (),
) -> tuple[ParityResult, ...]:
    """Compare a file with the torch network at each batch size, on several batches of each.

    Args:
        runner: The opened file.
        reference: The torch network; returns a tensor or a nest of tensors.
        artifact: Name of the file, for the report.
        inputs: Images [N, C, H, W], or one tensor per input; used in turn, again from the first if
            there are too few.
        batches: Batch sizes to run.
        limit: Largest allowed difference, relative to the reference's largest output value.
        max_column_error: Largest allowed error of any column, as a share of its own spread.
        image_size: Told in the results where sizes vary.
        main_output: Place of the output with the scores.
        task: What the main output is for; None: nobody knows.
        batch_dims: Where the images lie in each output; empty: in front.

    Raises:
        DataError: There are no images.
    """
    tensors = all_inputs(inputs)
    if len(tensors[0]) == 0:
        raise DataError("parity needs at least 1 image, got 0")
    results = []
    for batch in batches:
        ours, theirs = (
            _outputs_at(network, tensors, batch, batch_dims) for network in (runner, reference)
        )
        columns = compare_columns(theirs, ours)
        results.append(
            ParityResult(
                artifact, batch, _relative_error(ours, theirs), limit,
                _agreement(ours, theirs, main_output, task), image_size,
                columns.error, max_column_error, columns.column,
            )
        )  # fmt: skip
    return tuple(results)


def all_inputs(images: Tensor | Inputs) -> Inputs:
    """Images alone are the only input of their network."""
    return (images,) if isinstance(images, Tensor) else images


def repeated(inputs: Inputs, start: int, count: int) -> Inputs:
    """``count`` images from ``start`` on, from the first again where there are too few."""
    order = torch.arange(start, start + count) % len(inputs[0])
    return tuple(tensor[order] for tensor in inputs)


def require_parity(results: tuple[ParityResult, ...]) -> None:
    """Raise for the batch size that differs most, if any is above its limit.

    Raises:
        ParityError: An error is above the limit, or not a number.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    worst = max(failed, key=lambda result: np.nan_to_num(result.max_relative_error, nan=np.inf))
    raise ParityError(
        f"'{worst.artifact}' differs from the torch network {worst.how_far}; raise parity_limit in "
        "the target profile only if that is acceptable"
    )


def predict(
    network: Reference | Runner,
    images: Tensor | Inputs,
    batch: int,
    *,
    is_batch_fixed: bool = False,
    main_output: int = 0,
    batch_dims: BatchDims = (),
) -> Tensor:
    """One output for all images, float32 [N, …], computed in batches.

    Args:
        network: A torch network or an opened file.
        images: Float32 [N, C, H, W], or one tensor per input.
        batch: Images per call.
        is_batch_fixed: The network takes exactly ``batch`` images; the last batch is filled up.
        main_output: Place of the output that is wanted.
        batch_dims: Where the images lie in each output; empty: in front.

    Raises:
        DataError: There are no images.
    """
    inputs = all_inputs(images)
    if len(inputs[0]) == 0:
        raise DataError("there are no images to predict")
    parts = []
    for start in range(0, len(inputs[0]), batch):
        used = min(batch, len(inputs[0]) - start)
        chunk = repeated(inputs, start, batch if is_batch_fixed else used)
        found = _arrays(network, chunk, batch_dims)[main_output]
        parts.append(torch.from_numpy(found[:used].astype(np.float32)))
    return torch.cat(parts)


def predict_all(
    network: Reference | Runner,
    images: Tensor | Inputs,
    batch: int,
    *,
    is_batch_fixed: bool = False,
    batch_dims: BatchDims = (),
) -> tuple[NDArray[np.generic], ...]:
    """Every output for all images, computed in batches; those without images in them once.

    Args as ``predict``.
    """
    inputs = all_inputs(images)
    parts: list[list[NDArray[np.generic]]] = []
    for start in range(0, len(inputs[0]), batch):
        used = min(batch, len(inputs[0]) - start)
        chunk = repeated(inputs, start, batch if is_batch_fixed else used)
        found = _arrays(network, chunk, batch_dims)
        count = len(chunk[0])
        parts.append([a[:used] if a.ndim and len(a) == count else a for a in found])
    return tuple(_joined(pieces) for pieces in zip(*parts, strict=True))


def _joined(pieces: tuple[NDArray[np.generic], ...]) -> NDArray[np.generic]:
    shapes = {piece.shape[1:] for piece in pieces}
    if pieces[0].ndim == 0 or len(shapes) > 1:
        return pieces[0]
    return np.concatenate(pieces)


def _outputs_at(
    network: Reference | Runner, inputs: Inputs, batch: int, batch_dims: BatchDims
) -> Outputs:
    """All outputs on several batches."""
    chunks = (repeated(inputs, call * batch, batch) for call in range(CALLS_PER_BATCH_SIZE))
    found = [tuple(_arrays(network, chunk, batch_dims)) for chunk in chunks]
    return tuple(_joined(pieces).astype(np.float64) for pieces in zip(*found, strict=True))


def _arrays(
    network: Reference | Runner, inputs: Inputs, batch_dims: BatchDims
) -> list[NDArray[np.generic]]:
    """Every output, images first."""
    found = list(_flat_arrays(_call(network, inputs)))
    dims = (*batch_dims, *[0] * len(found))[: len(found)]
    pairs = zip(found, dims, strict=True)
    return [np.moveaxis(array, dim, 0) if dim < array.ndim else array for array, dim in pairs]


def _call(network: Reference | Runner, inputs: Inputs) -> object:
    if isinstance(network, Runner):
        return network.run(tuple(np.ascontiguousarray(tensor.numpy()) for tensor in inputs))
    with torch.no_grad():
        return network(*inputs)


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


def _agreement(ours: Outputs, theirs: Outputs, main: int, task: Task | None) -> float:
    """Of the main output; NaN where that says nothing."""
    if task is None or len(theirs) <= main:
        return float("nan")
    found = task.agreement(ours[main] if len(ours) > main else np.empty(0), theirs[main])
    return float("nan") if found is None else found
