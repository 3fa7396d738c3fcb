"""No image serves two purposes: by its place in a pool, and by its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.image_pool import Indices
from fairdeploy.inputs.sampling import Choice, Wishes, choose
from fairdeploy.inputs.splits import with_rest_selected
from fairdeploy.records import DataSplits, ImageSet, TrainingImages
from tests.inputs.test_calibration import pool_of
from tests.inputs.tiny_inputs import TINY

Places = set[int]


def parts_of(choice: Choice) -> dict[str, Places]:
    return {
        name: set(getattr(choice, name).tolist())
        for name in ("calibration", "test", "selection", "training")
    }


@given(
    num_images=st.integers(4, 60),
    is_labelled=st.booleans(),
    wishes=st.builds(
        Wishes,
        st.integers(2, 50),
        st.integers(0, 30),
        st.integers(0, 30),
        st.booleans(),
        st.booleans(),
    ),
)
def test_one_pool_is_shared_out_without_overlap(
    num_images: int, is_labelled: bool, wishes: Wishes
) -> None:
    labels = [index % 3 for index in range(num_images)] if is_labelled else None
    parts = parts_of(choose(pool_of(labels, num_images), None, wishes, seed=1))
    everything = set().union(*parts.values())
    assert sum(map(len, parts.values())) == len(everything)
    assert everything <= set(range(num_images))
    assert len(parts["test"]) <= wishes.max_test
    assert len(parts["selection"]) <= wishes.num_selection
    if wishes.with_training or wishes.with_rest:
        assert len(everything) == num_images
    else:
        assert not parts["training"]


@given(num_images=st.integers(8, 60), is_labelled=st.booleans())
def test_the_rest_costs_nothing_else_an_image(num_images: int, is_labelled: bool) -> None:
    labels = [index % 3 for index in range(num_images)] if is_labelled else None
    pool = pool_of(labels, num_images)
    plain, kept = (
        parts_of(choose(pool, None, Wishes(6, 20, 0, with_rest=with_rest), seed=1))
        for with_rest in (False, True)
    )
    rest = kept.pop("training")
    assert not plain.pop("training")
    assert plain == kept
    assert rest == set(range(num_images)) - set().union(*kept.values())
    chosen = parts_of(choose(pool, None, Wishes(6, 20, 5, with_rest=True), seed=1))
    left = num_images - len(chosen["calibration"])
    assert len(chosen["selection"]) == min(5, left // 4)


@given(num_train=st.integers(4, 40), num_test=st.integers(1, 40), num_selection=st.integers(0, 40))
def test_selection_is_held_out_and_training_is_not(
    num_train: int, num_test: int, num_selection: int
) -> None:
    train, test = (pool_of([i % 2 for i in range(count)]) for count in (num_train, num_test))
    parts = parts_of(choose(train, test, Wishes(6, 10, num_selection, True), seed=0))
    assert not parts["test"] & parts["selection"]
    assert parts["calibration"] | parts["training"] == set(range(num_train))
    assert not parts["calibration"] & parts["training"]
    half = num_test // 2 if num_selection else num_test
    assert len(parts["test"]) == min(10, half)


def test_test_images_are_the_same_with_and_without_selection_where_there_are_enough() -> None:
    train, test = pool_of([0, 1] * 20), pool_of([0, 1] * 50)
    alone, beside = (choose(train, test, Wishes(8, 20, n), seed=3) for n in (0, 40))
    assert parts_of(alone)["test"] == parts_of(beside)["test"]
    assert len(parts_of(beside)["selection"]) == 40


def test_an_image_chosen_twice_is_our_own_bug() -> None:
    twice = Choice(np.array([1, 2]), np.array([2, 3]))
    with pytest.raises(AssertionError, match="chosen twice"):
        twice.require_disjoint(is_one_pool=True)
    twice.require_disjoint(is_one_pool=False)


def images(first: int, count: int) -> np.ndarray:
    """Grey images, each of its own value."""
    return np.repeat(np.arange(first, first + count, dtype=np.uint8), 192).reshape(-1, 8, 8, 3)


def write(path: Path, train: np.ndarray, test: np.ndarray) -> str:
    np.savez(
        path, x_train=train, y_train=np.arange(len(train)) % 2,
        x_test=test, y_test=np.arange(len(test)) % 2,
    )  # fmt: skip
    return str(path)


def test_copies_of_test_images_are_left_out_wherever_they_lie(tmp_path: Path) -> None:
    # Of 40 training images the last 10 are in the test set too.
    spec = write(tmp_path / "data.npz", images(0, 40), images(30, 20))
    splits = load_data(
        spec, TINY, num_calibration=20, max_test=10, num_selection=10, with_training=True
    )
    assert splits.test is not None
    assert splits.selection is not None
    assert splits.training is not None
    assert len(splits.test) == len(splits.selection) == 10
    trained = splits.training.fetch(np.arange(splits.training.num_images))
    greys = [
        set(part.images[:, 0, 0, 0].tolist())
        for part in (splits.calibration, splits.test, splits.selection, trained)
    ]
    assert sum(map(len, greys)) == len(set().union(*greys)) == 50
    assert len(greys[0]) + len(greys[3]) == 30
    left_out = 20 - len(splits.calibration)
    assert left_out > 0
    assert f"{left_out} calibration image" in " ".join(splits.warnings)
    assert splits.training.has_labels


def test_the_same_images_to_calibrate_and_to_test_with_are_refused(tmp_path: Path) -> None:
    spec = write(tmp_path / "data.npz", images(0, 20), images(0, 20))
    with pytest.raises(DataError, match="to calibrate with are those to test with"):
        load_data(spec, TINY, num_calibration=20)


def test_nothing_is_kept_apart_that_nobody_asked_for(tmp_path: Path) -> None:
    spec = write(tmp_path / "data.npz", images(0, 20), images(100, 20))
    splits = load_data(spec, TINY, num_calibration=10)
    assert splits.selection is None
    assert splits.training is None
    assert splits.warnings == ()


def split_with_rest(num_selection: int, num_left: int) -> DataSplits:
    """Images whose only pixel is their number; those that are left begin at 1,000."""

    def of(numbers: Tensor) -> ImageSet:
        return ImageSet(numbers.float()[:, None, None, None], numbers.long() % 3, "given")

    def fetch(places: Indices) -> ImageSet:
        return of(torch.from_numpy(places) + 1000)

    return DataSplits(
        of(torch.arange(6)), None, None, "here", "0", selection=of(torch.arange(num_selection)),
        training=TrainingImages(num_left, True, fetch),
    )  # fmt: skip


def test_all_labelled_images_that_are_left_select_where_nothing_learns_from_them() -> None:
    data = with_rest_selected(
        split_with_rest(30, 50), 1000, lambda images: torch.arange(len(images)) % 10 > 0
    )
    assert data.training is None
    assert data.selection is not None
    assert data.selection.labels is not None
    numbers = data.selection.images.flatten().tolist()
    assert numbers == [*range(30), *range(1000, 1050)]
    assert data.selection.labels.tolist() == [int(number) % 3 for number in numbers]
    limited = with_rest_selected(
        split_with_rest(30, 50), 40, lambda images: torch.arange(len(images)) % 10 > 0
    )
    assert limited.selection is not None
    assert len(limited.selection) == 40


def test_images_that_the_network_has_learned_do_not_select_and_that_is_said() -> None:
    def right(images: ImageSet) -> Tensor:
        is_learned = images.images.flatten() >= 1000
        return is_learned | (torch.arange(len(images)) % 5 > 0)

    data = with_rest_selected(split_with_rest(100, 200), 1000, right)
    assert data.selection is not None
    assert len(data.selection) == 100
    assert data.warnings == (
        "200 labelled images beside the test ones are not selected with: the network seems to have "
        "learned them (100.0% right, and 80.0% of those held out)",
    )
