"""Whether a file in another precision or format gives what the torch network gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.output_columns import Array, ColumnVerdict, compare_columns
from fairdeploy.deployment.parity import BatchDims, predict, predict_all
from fairdeploy.records import AccuracyEstimate, Artifact, Tolerance, VariantCheck
from fairdeploy.tasks.base import Task

BATCH = 32
_FEW_IMAGES = 64
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Examples:
    """Images that judge, and what the torch network says of them."""

    inputs: tuple[Tensor, ...]
    """One tensor per input."""
    labels: Tensor | None
    expected: Tensor
    """The main output."""
    others: tuple[Array, ...]
    """All outputs for the first images; empty where there is but one."""
    main_output: int
    batch: int | None
    """The only number of images that files take at a time; None: any."""
    batch_dims: BatchDims = ()
    """Where the images lie in each output; empty: in front."""
    task: Task = field(default_factory=Task)
    """What the main output is for."""

    @property
    def accuracy(self) -> AccuracyEstimate | None:
        """Of the torch network; None without labels."""
        return self.quality(self.expected)

    def quality(self, answer: Tensor) -> AccuracyEstimate | None:
        """Of a file's main output; None without labels, and for another shape."""
        is_alike = answer.shape == self.expected.shape
        if self.labels is None or not self.task.has_targets or not is_alike:
            return None
        return self.task.quality(self.task.kept(answer), self.labels)

    def columns(self, runner: Runner, got: Tensor) -> ColumnVerdict:
        """How far the columns of all outputs are off in a file whose main output is ``got``."""
        if not self.others:
            return compare_columns([self.expected.numpy()], [got.numpy()])
        found = all_outputs(runner, self.inputs, self.batch, self.batch_dims)
        main = compare_columns([self.expected.numpy()], [got.numpy()])
        rest = compare_columns(self.others, found)
        worst = main if main.error > rest.error else rest
        return replace(worst, problems=tuple(dict.fromkeys([*rest.problems, *main.problems])))


def make_examples(
    network: Callable[..., object],
    inputs: tuple[Tensor, ...],
    labels: Tensor | None,
    *,
    main_output: int,
    batch: int | None,
    batch_dims: BatchDims = (),
) -> Examples:
    """Run the torch network once on all images.

    Raises:
        DataError: There are no images.
    """
    unasked = Examples(inputs, labels, torch.zeros(0), (), main_output, batch, batch_dims)
    expected = _predicted(network, unasked)
    outputs = all_outputs(network, inputs, batch, batch_dims)
    return replace(unasked, expected=expected, others=outputs if len(outputs) > 1 else ())


def all_outputs(
    network: Callable[..., object] | Runner,
    inputs: tuple[Tensor, ...],
    batch: int | None,
    batch_dims: BatchDims = (),
) -> tuple[Array, ...]:
    """Every output for the first images."""
    first = tuple(tensor[:_FEW_IMAGES] for tensor in inputs)
    with torch.no_grad():
        return predict_all(
            network, first, batch or BATCH, is_batch_fixed=batch is not None, batch_dims=batch_dims
        )


def check_variant(
    runner: Runner, artifact: Artifact, examples: Examples, tolerance: Tolerance, max_drop: float
) -> VariantCheck:
    """Error, agreement and accuracy of an opened file on all examples.

    Raises:
        ExportError: The file fails to run.
    """
    got = _predicted(runner, examples)
    before, after = examples.accuracy, examples.quality(got)
    columns = examples.columns(runner, got)
    return VariantCheck(
        artifact=artifact,
        tolerance=tolerance,
        max_relative_error=relative_error(examples.expected, got),
        column_error=columns.error,
        worst_column=columns.column,
        column_problems=columns.problems,
        top1_agreement=examples.task.agreement(got, examples.expected),
        accuracy=after,
        accuracy_drop=before.value - after.value if before and after else None,
        max_drop=max_drop,
        num_images=len(got),
    )


def unchecked(artifact: Artifact, tolerance: Tolerance, max_drop: float, why: str) -> VariantCheck:
    """Of a file that cannot be run on this machine."""
    return VariantCheck(
        artifact, tolerance, None, None, None, None, max_drop, 0, not_run_because=why
    )


def relative_error(expected: Tensor, got: Tensor) -> float:
    """Largest difference, relative to the largest expected value; infinite if not comparable."""
    if expected.shape != got.shape:
        return float("inf")
    difference = (got.double() - expected.double()).abs().max()
    error = float(difference / expected.double().abs().max().clamp_min(_TINY))
    return error if np.isfinite(error) else float("inf")


def _predicted(network: Callable[..., object] | Runner, examples: Examples) -> Tensor:
    batch = examples.batch
    with torch.no_grad():
        return predict(
            network, examples.inputs, batch or BATCH, is_batch_fixed=batch is not None,
            main_output=examples.main_output, batch_dims=examples.batch_dims,
        )  # fmt: skip


# ---- how far a file may be from the torch network, by precision ----------------------------------


DEFAULT_MAX_DROP = 0.01
"""Share of right answers that a quantised file may lose."""

_TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.995, 0.02),
    "fp16": Tolerance(2e-2, 0.99, 0.05),
    "bf16": Tolerance(1e-1, 0.97, 0.2),
    "int8": Tolerance(9e-1, 0.94, 0.3),
}
_LOOSEST = "int8"


def tolerance_of(precision: str, fp32_limit: float) -> Tolerance:
    """Of ``fp16``, or of ``int8-symmetric`` by its first word; the loosest for unknown ones.

    Args:
        precision: As the exporter calls it.
        fp32_limit: Of the target profile, for files in full precision.
    """
    kind = precision.partition("-")[0]
    found = _TOLERANCES.get(kind, _TOLERANCES[_LOOSEST])
    return replace(found, max_relative_error=fp32_limit) if kind == "fp32" else found
