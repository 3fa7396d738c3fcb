"""Calibration and test images: balanced, seeded, never overlapping, checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.errors import DataError, UsageError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.image_pool import Fetched, ImagePool
from fairdeploy.inputs.sampling import Wishes, choose_balanced, split_one_pool
from tests.inputs.tiny_inputs import TINY, grey_values, write_class_folders, write_image


def pool_of(labels: list[int] | None, size: int = 0) -> ImagePool:
    """A pool whose images are never read."""

    def fetch(indices: np.ndarray) -> Fetched:
        return Fetched(torch.zeros(len(indices), 1, 1, 1), indices)

    numbers = None if labels is None else np.array(labels, dtype=np.int64)
    return ImagePool(size if labels is None else len(labels), numbers, fetch)


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=40),
    count=st.integers(1, 45),
    seed=st.integers(0, 5),
)
def test_chosen_classes_differ_by_at_most_one_where_the_pool_allows(
    labels: list[int], count: int, seed: int
) -> None:
    chosen = choose_balanced(pool_of(labels), count, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(labels))
    taken = np.bincount(np.array(labels)[chosen], minlength=4)
    there = np.bincount(np.array(labels), minlength=4)
    # A class with fewer than another must have given all it has.
    for one in range(4):
        assert taken[one] >= taken.max() - 1 or taken[one] == there[one]


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 2), min_size=2, max_size=40),
    num_calibration=st.integers(2, 50),
    max_test=st.integers(0, 20),
)
def test_calibration_and_test_never_overlap(
    labels: list[int], num_calibration: int, max_test: int
) -> None:
    choice = split_one_pool(pool_of(labels), Wishes(num_calibration, max_test), seed=0)
    assert not set(choice.calibration.tolist()) & set(choice.test.tolist())
    assert len(choice.test) <= max_test
    assert len(choice.calibration) <= max(2 * len(set(labels)), int(0.8 * len(labels)))
    assert len(set(np.array(labels)[choice.calibration])) == min(len(set(labels)), num_calibration)


def test_same_seed_same_choice_and_another_seed_another() -> None:
    pool = pool_of([index % 4 for index in range(200)])
    first, again, other = (choose_balanced(pool, 40, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_class_folders_give_labels_by_sorted_name_and_normalised_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 5, "bee": 5})
    splits = load_data(str(tmp_path), TINY, num_calibration=6)
    calibration, test = splits.calibration, splits.test
    assert test is not None
    assert calibration.labels is not None
    assert test.labels is not None
    assert splits.class_names == ("ant", "bee")
    assert calibration.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [value // 10 for value in grey_values(calibration.images)] == [0, 0, 0, 1, 1, 1]
    together = grey_values(calibration.images) + grey_values(test.images)
    assert sorted(together) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert calibration.images.dtype == torch.float32
    assert calibration.label_source == "given"


def test_equal_data_gives_equal_hashes_and_other_images_another(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 5, "bee": 5})
    first = load_data(str(tmp_path), TINY, num_calibration=6)
    again = load_data(str(tmp_path), TINY, num_calibration=6)
    other = load_data(str(tmp_path), TINY, num_calibration=6, seed=1)
    assert first.sha256 == again.sha256 != other.sha256


def test_max_test_limits_the_test_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 9, "bee": 9})
    splits = load_data(str(tmp_path), TINY, num_calibration=4, max_test=3)
    assert splits.test is not None
    assert len(splits.test) == 3


def test_unlabelled_images_are_all_for_calibration(tmp_path: Path) -> None:
    for index in range(4):
        write_image(tmp_path / f"{index}.png", index)
    splits = load_data(str(tmp_path), TINY)
    assert len(splits.calibration) == 4
    assert splits.calibration.labels is None
    assert splits.calibration.label_source == "none"
    assert splits.test is None


def test_no_data_gives_seeded_noise_and_a_loud_warning() -> None:
    splits = load_data(None, TINY, num_calibration=64)
    again = load_data(None, TINY, num_calibration=64)
    assert splits.calibration.is_synthetic
    assert splits.calibration.images.shape == (64, 3, 8, 8)
    assert abs(float(splits.calibration.images.std()) - 1) < 0.05
    assert splits.sha256 == again.sha256
    assert splits.test is None
    assert splits.warnings[0].startswith("NO DATA GIVEN")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("absent", "no data at 'absent'; give an image folder"), ("a.zip", "of an unknown kind")],
)
def test_data_that_is_not_there_or_of_no_known_kind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=message):
        load_data(spec, TINY)


def test_impossible_counts_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="1 calibration images are too few; give at least 2"):
        load_data(None, TINY, num_calibration=1)
    with pytest.raises(UsageError, match="-1 test images are impossible"):
        load_data(None, TINY, max_test=-1)
