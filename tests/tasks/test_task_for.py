"""Which task labels and output belong to, and what is said where they fit none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairdeploy.errors import DataError, UsageError
from fairdeploy.tasks import task_for

WHOLE = torch.arange(8) % 4
FLAGS = torch.arange(8) % 2
NUMBERS = torch.linspace(-1, 1, 8)


def answer(*shape: int) -> Tensor:
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("output", "labels", "name"),
    [
        ((10,), WHOLE, "classification"),
        ((10,), WHOLE.double(), "classification"),
        ((3,), FLAGS[:, None].repeat(1, 3), "multilabel"),
        ((3,), FLAGS[:, None].repeat(1, 3).bool(), "multilabel"),
        ((3,), NUMBERS[:, None].repeat(1, 3), "regression"),
        ((), FLAGS, "classification"),
        ((1,), FLAGS, "classification"),
        ((), NUMBERS, "regression"),
        ((1,), WHOLE, "regression"),
        ((4, 6, 6), WHOLE[:, None, None].expand(8, 12, 12), "segmentation"),
        ((4, 6, 6), WHOLE[:, None, None, None].expand(8, 1, 6, 6), "segmentation"),
        ((1, 6, 6), FLAGS[:, None, None].expand(8, 6, 6), "segmentation"),
        ((10,), None, "classification"),
        ((), None, "imitation"),
        ((4, 6, 6), None, "imitation"),
        ((4, 6, 6), WHOLE, "imitation"),
        ((7, 9), WHOLE, "imitation"),
    ],
)
def test_labels_and_output_tell_the_task(
    output: tuple[int, ...], labels: Tensor | None, name: str
) -> None:
    assert task_for(answer(*output), labels, None).words.name == name


def test_flags_are_numbers_where_the_user_says_so() -> None:
    assert task_for(answer(), FLAGS, "regression").words.name == "regression"
    assert task_for(answer(1), FLAGS, "multilabel").words.name == "multilabel"
    assert task_for(answer(10), WHOLE, "imitation").words.name == "imitation"


@pytest.mark.parametrize(
    ("output", "labels", "name", "text"),
    [
        ((2,), NUMBERS, None, r"labels of shape \[N\] \(numbers\) do not fit outputs of shape "
         r"\[N, 2\]; known are classification: .* images alone are enough$"),
        ((4,), FLAGS[:, None].repeat(1, 3), None, r"shape \[N, 3\] \(whole numbers\) do not fit"),
        ((), NUMBERS, "classification", r"as --task classification, which takes scores \[N, cl"),
        ((4, 6, 6), WHOLE, "segmentation", r"which takes maps .* masks of class numbers"),
    ],
)  # fmt: skip
def test_labels_that_fit_nothing_are_one_line(
    output: tuple[int, ...], labels: Tensor, name: str, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        task_for(answer(*output), labels, name)  # type: ignore[arg-type]


def test_a_task_that_needs_labels_says_so() -> None:
    with pytest.raises(UsageError, match="--task segmentation needs labels, and there are none"):
        task_for(answer(4, 6, 6), None, "segmentation")
