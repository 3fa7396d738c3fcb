"""Inputs are made up from what a file declares; what it leaves open is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.errors import DataError, UsageError
from fairdeploy.inputs.made_up_inputs import fixed_batch, make_up_inputs, varying_sizes
from fairdeploy.records import InputSignature

IMAGE = InputSignature("image", "float32", ("batch", 3, "H", "W"))
MASK = InputSignature("mask", "bool", ("batch", "W"))
TOKENS = InputSignature("tokens", "int64", (None, None))


def test_every_type_gets_values_of_its_own() -> None:
    half = InputSignature("half", "float16", (1000,))
    image, mask, tokens, halves = make_up_inputs(
        (IMAGE, MASK, TOKENS, half), 4, {"H": 8, "W": 16, "tokens.1": 7}, seed=0
    )
    assert (image.shape, image.dtype.name) == ((4, 3, 8, 16), "float32")
    assert abs(float(np.mean(image))) < 0.1  # 1536 normal numbers: standard error 0.026
    assert (mask.shape, mask.dtype.name) == ((4, 16), "bool")
    assert (tokens.shape, tokens.dtype.name) == ((4, 7), "int64")
    assert set(np.unique(tokens)) == {0, 1}
    assert (halves.shape, halves.dtype.name) == ((1000,), "float16")


def test_the_same_seed_gives_the_same_inputs() -> None:
    first, again, other = (
        make_up_inputs((IMAGE,), 1, {"H": 2, "W": 2}, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_size_that_nobody_gave_is_asked_for_by_name() -> None:
    with pytest.raises(
        UsageError,
        match=r"input 'image' has a size 'H' that varies; give it with --size H=NUMBER",
    ):
        make_up_inputs((IMAGE,), 1, {"W": 4}, seed=0)
    with pytest.raises(UsageError, match=r"input 'tokens' has a size 'tokens.1' that varies"):
        make_up_inputs((TOKENS,), 1, {}, seed=0)


def test_all_sizes_that_are_missing_are_asked_for_at_once() -> None:
    with pytest.raises(UsageError, match=r"give it with --size H=NUMBER --size W=NUMBER$"):
        make_up_inputs((IMAGE,), 1, {}, seed=0)


def test_a_size_that_no_input_has_is_refused_with_those_that_vary() -> None:
    with pytest.raises(UsageError, match=r"--size D=… names no size .*: batch, H, W$"):
        make_up_inputs((IMAGE, MASK), 1, {"D": 4}, seed=0)
    with pytest.raises(UsageError, match="no size of this file varies"):
        make_up_inputs((InputSignature("x", "float32", (1, 3)),), 1, {"D": 4}, seed=0)


def test_a_size_given_by_name_wins_over_the_batch() -> None:
    (image,) = make_up_inputs((IMAGE,), 4, {"batch": 2, "H": 8, "W": 8}, seed=0)
    assert image.shape[0] == 2


def test_a_type_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match=r"input 'text' is of type 'string', which cannot be made"):
        make_up_inputs((InputSignature("text", "string", (1,)),), 1, {}, seed=0)


def test_a_batch_is_fixed_only_where_the_file_says_a_number() -> None:
    assert fixed_batch((InputSignature("x", "float32", (8, 3)),)) == 8
    assert fixed_batch((IMAGE,)) is None
    assert fixed_batch((InputSignature("scale", "float32", ()),)) is None
    assert varying_sizes((IMAGE, MASK, TOKENS)) == ("batch", "H", "W", "tokens.0", "tokens.1")
