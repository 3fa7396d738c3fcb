"""Parity sees every way in which a file can differ, and accuracy comes with an honest interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.deployment.parity import (
    check_parity,
    predict,
    require_parity,
)
from fairdeploy.errors import DataError, ParityError
from fairdeploy.records import ParityResult
from fairdeploy.tasks.classification import Classification
from tests.deployment.fakes import FunctionRunner

IMAGES = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def logits(images: Tensor) -> Tensor:
    """Four logits per image; the largest value over ``IMAGES`` is far from 1."""
    return 100.0 * images.flatten(1)[:, :4]


def numpy_logits(images: np.ndarray) -> np.ndarray:
    return 100.0 * images.reshape(len(images), -1)[:, :4]


def test_parity_is_exact_for_the_same_function() -> None:
    results = check_parity(
        FunctionRunner(numpy_logits),
        logits,
        "m.onnx",
        IMAGES,
        limit=1e-4,
        task=Classification(is_known=True),
    )
    assert [(result.batch, result.artifact) for result in results] == [(1, "m.onnx"), (3, "m.onnx")]
    assert [result.max_relative_error for result in results] == [0.0, 0.0]
    assert [result.top1_agreement for result in results] == [1.0, 1.0]
    require_parity(results)


def test_parity_error_is_relative_to_the_output_s_largest_value() -> None:
    def reference(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, -50.0]]).expand(len(images), 2)

    runner = FunctionRunner(lambda x: np.tile([0.5, -50.0], (len(x), 1)))
    (result,) = check_parity(runner, reference, "m", IMAGES, batches=(3,), limit=1e-3)
    assert result.max_relative_error == pytest.approx(0.01)  # 0.5 of 50
    assert not result.passed


def test_parity_runs_the_file_at_the_batch_sizes_it_names() -> None:
    seen = []

    def remember(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return numpy_logits(images)

    check_parity(FunctionRunner(remember), logits, "m", IMAGES[:2], batches=(1, 5), limit=1e-4)
    assert set(seen) == {1, 5}


def test_parity_compares_several_images_even_at_batch_one() -> None:
    def wrong_for_the_second(images: np.ndarray) -> np.ndarray:
        is_second = np.array_equal(images[0], IMAGES[1].numpy())
        return numpy_logits(images) + (1.0 if is_second else 0.0)

    (result,) = check_parity(
        FunctionRunner(wrong_for_the_second), logits, "m", IMAGES, batches=(1,), limit=1e-4
    )
    assert result.max_relative_error > 1e-3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parity_error_is_infinite_when_an_output_is_not_a_number(value: float) -> None:
    def broken(images: np.ndarray) -> np.ndarray:
        outputs = numpy_logits(images)
        outputs[0, 0] = value
        return outputs

    (result, _) = check_parity(FunctionRunner(broken), logits, "m", IMAGES, limit=1e-4)
    assert result.max_relative_error == math.inf
    with pytest.raises(ParityError, match=r"'m' differs .* or is not a number at batch 1"):
        require_parity((result,))


def test_parity_fails_when_both_sides_are_not_numbers() -> None:
    runner = FunctionRunner(lambda x: np.full((len(x), 2), np.nan))
    (result, _) = check_parity(
        runner, lambda x: torch.full((len(x), 2), math.nan), "m", IMAGES, limit=1e-4
    )
    assert not result.passed


@pytest.mark.parametrize(
    "function",
    [lambda x: numpy_logits(x)[:, :3], lambda x: (numpy_logits(x), numpy_logits(x)), lambda x: ()],
    ids=["fewer logits", "one output too many", "no output"],
)
def test_parity_error_is_infinite_when_shapes_differ(
    function: Callable[[np.ndarray], object],
) -> None:
    (result, _) = check_parity(FunctionRunner(function), logits, "m", IMAGES, limit=1e-4)
    assert result.max_relative_error == math.inf


def test_parity_looks_at_every_output_of_a_nest() -> None:
    def reference(images: Tensor) -> object:
        return {"logits": logits(images), "features": (images * 0.01, images)}

    def runner_outputs(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return numpy_logits(images), images * 0.011, images

    (result, _) = check_parity(FunctionRunner(runner_outputs), reference, "m", IMAGES, limit=1e-4)
    assert result.max_relative_error == pytest.approx(0.1, rel=1e-4)


def test_top1_agreement_counts_the_images_whose_class_stays() -> None:
    def flipped_for_the_first(images: np.ndarray) -> np.ndarray:
        outputs = numpy_logits(images)
        outputs[0] = -outputs[0]
        return outputs

    (result,) = check_parity(
        FunctionRunner(flipped_for_the_first), logits, "m", IMAGES, batches=(4,), limit=1e-4,
        task=Classification(is_known=True),
    )  # fmt: skip
    assert result.top1_agreement == 0.75


def test_top1_agreement_is_unknown_when_the_output_is_a_map() -> None:
    (result, _) = check_parity(FunctionRunner(lambda x: x), nn.Identity(), "m", IMAGES, limit=1e-4)
    assert math.isnan(result.top1_agreement)
    assert result.passed


def test_parity_error_names_the_file_the_error_the_limit_and_the_batch() -> None:
    results = (
        ParityResult("model.onnx", 1, 2e-5, 1e-4, 1.0),
        ParityResult("model.onnx", 3, 3.1e-2, 1e-4, 0.5),
        ParityResult("model.onnx", 8, 2e-2, 1e-4, 0.5),
    )
    with pytest.raises(ParityError) as caught:
        require_parity(results)
    assert str(caught.value).startswith(
        "'model.onnx' differs from the torch network by 3.1e-02 of the output's scale at batch 3, "
        "limit 1e-04;"
    )
    assert caught.value.exit_code == 4


def test_parity_refuses_an_empty_set_of_images() -> None:
    with pytest.raises(DataError, match="at least 1 image, got 0"):
        check_parity(FunctionRunner(numpy_logits), logits, "m", IMAGES[:0], limit=1e-4)


def test_predict_gives_the_same_for_networks_and_files_whatever_the_batch() -> None:
    whole = logits(IMAGES)
    for batch in (1, 3, 7, 64):
        torch.testing.assert_close(predict(logits, IMAGES, batch), whole)
        torch.testing.assert_close(predict(FunctionRunner(numpy_logits), IMAGES, batch), whole)


def test_predict_takes_the_first_of_several_outputs() -> None:
    torch.testing.assert_close(predict(lambda x: (logits(x), x), IMAGES, 3), logits(IMAGES))


def test_predict_fills_the_last_batch_up_when_the_batch_is_fixed() -> None:
    def only_three(images: np.ndarray) -> np.ndarray:
        assert len(images) == 3
        return numpy_logits(images)

    result = predict(FunctionRunner(only_three), IMAGES, 3, is_batch_fixed=True)
    torch.testing.assert_close(result, logits(IMAGES))


def test_predict_records_no_gradients() -> None:
    assert not predict(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), IMAGES, 4).requires_grad


def test_predict_refuses_an_empty_set_of_images() -> None:
    with pytest.raises(DataError, match="no images"):
        predict(logits, IMAGES[:0], 4)
