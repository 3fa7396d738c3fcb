"""Inputs for any file, made up from what it declares: enough to measure it, not to judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import DataError, UsageError
from fairdeploy.records import InputSignature

_NUM_CODES = 2
"""Whole numbers are 0 or 1: a row of any table, and a mask's values."""


def make_up_inputs(
    signature: Sequence[InputSignature], batch: int, sizes: Mapping[str, int], *, seed: int
) -> tuple[NDArray[Any], ...]:
    """One array for each input: normal noise, zeros and ones, or true and false.

    Args:
        batch: Of the first dimension, where that varies.
        sizes: Other sizes that vary, by name; one without a name is ``INPUT.POSITION``.

    Raises:
        UsageError: A size is missing, or nothing in the file is called so.
        DataError: An input is of a type that cannot be made up.
    """
    unknown = [name for name in sizes if name not in varying_sizes(signature)]
    if unknown:
        found = ", ".join(varying_sizes(signature)) or "no size of this file varies"
        raise UsageError(f"--size {unknown[0]}=… names no size that varies; use one of: {found}")
    rng = np.random.default_rng(seed)
    return tuple(_made_up(one, _shape(one, signature, batch, sizes), rng) for one in signature)


def varying_sizes(signature: Sequence[InputSignature]) -> tuple[str, ...]:
    """What the sizes that vary are called, in the order of the inputs."""
    names = (
        _name_of(one, position)
        for one in signature
        for position, size in enumerate(one.sizes)
        if not isinstance(size, int)
    )
    return tuple(dict.fromkeys(names))


def fixed_batch(signature: Sequence[InputSignature]) -> int | None:
    """The only batch that the file takes, None if it takes any."""
    firsts = [one.sizes[0] for one in signature if one.sizes]
    return firsts[0] if firsts and isinstance(firsts[0], int) else None


def _shape(
    one: InputSignature, signature: Sequence[InputSignature], batch: int, sizes: Mapping[str, int]
) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) else _size_of(one, position, signature, batch, sizes)
        for position, size in enumerate(one.sizes)
    )


def _size_of(
    one: InputSignature,
    position: int,
    signature: Sequence[InputSignature],
    batch: int,
    sizes: Mapping[str, int],
) -> int:
    name = _name_of(one, position)
    if name in sizes:
        return sizes[name]
    if position == 0 and one.sizes[0] is None:
        return batch
    if name == _batch_name(signature):
        return batch
    batches = {_name_of(each, 0) for each in signature if each.sizes and each.sizes[0] is None}
    known = {*sizes, *batches, _batch_name(signature)}
    rest = [item for item in varying_sizes(signature) if item not in known]
    raise UsageError(
        f"input '{one.name}' has a size '{name}' that varies; give it with "
        + " ".join(f"--size {item}=NUMBER" for item in rest)
    )


def _batch_name(signature: Sequence[InputSignature]) -> str | None:
    return _name_of(signature[0], 0) if signature[0].sizes else None


def _name_of(one: InputSignature, position: int) -> str:
    return str(one.sizes[position] or f"{one.name}.{position}")


def _made_up(one: InputSignature, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    try:
        dtype = np.dtype(one.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        return rng.integers(0, _NUM_CODES, shape).astype(dtype)
    raise DataError(
        f"input '{one.name}' is of type '{one.dtype}', which cannot be made up, so the file cannot "
        "be measured; give one whose inputs are tensors of numbers, or of true and false"
    )
