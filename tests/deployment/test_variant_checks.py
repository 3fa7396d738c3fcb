"""Error, agreement and accuracy of other files, with numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairdeploy.deployment.variant_checks import (
    Examples,
    check_variant,
    make_examples,
    tolerance_of,
    unchecked,
)
from fairdeploy.records import Artifact, Tolerance
from fairdeploy.tasks.classification import Classification
from tests.deployment.fakes import FunctionRunner

ARTIFACT = Artifact("m.bin", "onnx", "int8", "ab", 3)
SCORES = torch.tensor([[4.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 1, 1, 1])


def examples() -> Examples:
    """The scores themselves are the images; the network is the identity."""
    found = make_examples(lambda x: x, (SCORES,), LABELS, main_output=0, batch=None)
    return replace(found, task=Classification(is_known=True))


def runner(change: object) -> FunctionRunner:
    return FunctionRunner(change)  # type: ignore[arg-type]


def swap_third(x: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[2] = result[2][::-1]
    return result


def test_what_changes_one_image_of_four() -> None:
    check = check_variant(
        runner(swap_third), ARTIFACT, examples(), Tolerance(0.3, 0.7, 0.61), max_drop=0.0
    )
    assert check.max_relative_error == pytest.approx(1 / 4)  # a difference of 1, the largest is 4
    assert check.top1_agreement == 0.75
    assert check.accuracy is not None
    assert check.accuracy.value == 1.0
    assert check.accuracy_drop == -0.25
    assert check.num_images == 4
    # scores of class 1: 0, 2, 0, 1; off by 0, 0, 1, 0
    assert check.column_error == pytest.approx(0.5 / np.std([0, 2, 0, 1]))
    assert check.worst_column == "column 1"
    assert check.passed is True


def test_every_broken_limit_is_named() -> None:
    def reversed_all(x: np.ndarray) -> np.ndarray:
        return x[:, ::-1]

    check = check_variant(
        runner(reversed_all), ARTIFACT, examples(), Tolerance(1e-2, 0.9), max_drop=0.01
    )
    assert check.failures() == (
        "relative error 1.0e+00, limit 1e-02",
        "column 1 is off by 2.8 of its own spread, limit 0.2",
        "same answers for 0.0%, limit 90%",
        "50.00 points of accuracy lost, limit 1",
    )
    assert check.passed is False


@pytest.mark.parametrize("wrong", [lambda x: x * np.nan, lambda x: x[:, :1], lambda x: x * np.inf])
def test_what_cannot_be_compared_fails(wrong: object) -> None:
    check = check_variant(runner(wrong), ARTIFACT, examples(), Tolerance(0.5, 0.0), max_drop=1.0)
    assert check.passed is False
    assert check.max_relative_error == float("inf")


def test_a_file_that_takes_one_batch_only_is_given_no_other() -> None:
    sizes = []

    def remember(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return x

    three = make_examples(lambda x: x, (SCORES,), None, main_output=0, batch=3)
    check = check_variant(runner(remember), ARTIFACT, three, Tolerance(0.0, 1.0), max_drop=0.0)
    assert set(sizes) == {3}
    assert check.passed
    assert check.num_images == 4
    assert check.accuracy is None


def test_a_file_that_was_not_run_has_no_verdict() -> None:
    check = unchecked(ARTIFACT, Tolerance(1.0, 0.0), 0.01, "no GPU")
    assert check.passed is None
    assert check.not_run_because == "no GPU"


def test_tolerances_widen_with_the_precision() -> None:
    limits = [
        tolerance_of(precision, 1e-4).max_relative_error
        for precision in ("fp32", "fp16", "bf16", "int8")
    ]
    assert limits == sorted(limits)
    assert limits[0] == 1e-4
    assert tolerance_of("int8-symmetric", 1e-4) == tolerance_of("int8", 1e-4)
    assert tolerance_of("fp8-made-up", 1e-4) == tolerance_of("int8", 1e-4)
