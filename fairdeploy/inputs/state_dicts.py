"""Compares the weights of a file with a network, and puts them into it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError
from fairdeploy.inputs.checkpoint_contents import Weights

_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """Names in which a file's weights and a network differ; empty where they agree."""

    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    """In the file."""
    surplus: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reshaped) + len(self.missing) + len(self.surplus)


def difference(weights: Weights, expected: Mapping[str, object]) -> Difference:
    """Where ``weights`` do not fit a network whose ``state_dict`` is ``expected``."""
    reshaped = [
        name
        for name, ours in expected.items()
        if name in weights and not _fits(weights[name], ours)
    ]
    missing = [name for name in expected if name not in weights and not _is_optional(name)]
    surplus = [name for name in weights if name not in expected]
    return Difference(tuple(reshaped), tuple(missing), tuple(surplus))


def infer_num_classes(weights: Weights, network: nn.Module) -> int | None:
    """The number of classes the weights have, if only the classifier's length differs.

    Returns:
        None when the shapes agree, or differ in more than one first dimension.
    """
    expected = network.state_dict()
    found = difference(weights, expected)
    if found.missing or found.surplus:
        return None
    lengths: set[tuple[int, int]] = set()
    for name in found.reshaped:
        theirs, ours = weights[name], expected[name]
        if not isinstance(theirs, Tensor) or theirs.ndim == 0 or ours.ndim == 0:
            return None
        if theirs.shape[1:] != ours.shape[1:] or not theirs.dtype.is_floating_point:
            return None
        lengths.add((ours.shape[0], theirs.shape[0]))
    return lengths.pop()[1] if len(lengths) == 1 else None


def fill_network(network: nn.Module, weights: Weights, *, source: str, arch: str) -> None:
    """Copy ``weights``, which fit, into ``network``.

    Raises:
        ModelError: The network's own code refuses them.
    """
    try:
        network.load_state_dict(weights, strict=False)
    except Exception as error:  # extra states go through the user's own code
        raise ModelError(
            f"'{source}' fits --arch {arch} by name, but loading it fails with "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        ) from error


def problem_texts(weights: Weights, expected: Mapping[str, object]) -> str:
    """The first differences, and which names may be the same thing."""
    found = difference(weights, expected)
    problems = [
        f"'{name}' is {_text(weights[name])} in the file, {_text(expected[name])} in the network"
        for name in found.reshaped[:_SHOWN_PROBLEMS]
    ]
    problems += [
        f"the {who} lacks '{name}' {_text(has[name])}"
        for who, names, has in (
            ("file", found.missing, expected),
            ("network", found.surplus, weights),
        )
        for name in names[:_SHOWN_PROBLEMS]
    ]
    more = len(found) - len(problems)
    return "; ".join(problems) + (f" (and {more} more)" if more else "") + _nearest(found)


def quantised_name(weights: Weights, others: Sequence[str] = ()) -> str | None:
    """A name that only a quantised network has, or one prepared for it."""
    marks = ("_packed_params", "fake_quant", "activation_post_process", "qweight", ".quant_state")
    for name in (*weights, *others):
        value = weights.get(name)
        if any(mark in name for mark in marks) or _is_low_bit(name, value):
            return name
    return None


def quantised(source: object, name: str) -> ModelError:
    """The error for a network in whole numbers, told by one of its names."""
    return ModelError(
        f"'{source}' holds a quantised network ('{name}'), which cannot be shrunk; give the "
        "checkpoint from before the quantisation, and quantise what comes out with "
        "fairdeploy export --precision int8"
    )


def _is_low_bit(name: str, value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    is_integer = value.dtype in (torch.int8, torch.uint8) and name.endswith("weight")
    return value.is_quantized or is_integer


def _nearest(found: Difference) -> str:
    pairs = (
        (name, difflib.get_close_matches(name, found.surplus[:500], n=1, cutoff=0.5))
        for name in found.missing[:_SHOWN_PROBLEMS]
    )
    texts = [f"'{close[0]}' for '{name}'" for name, close in pairs if close]
    return f"; nearest names: {', '.join(texts)}" if texts else ""


def _is_optional(name: str) -> bool:
    # Old checkpoints lack this counter, which inference never reads.
    return name.endswith(("num_batches_tracked", "_extra_state"))


def _fits(theirs: object, ours: object) -> bool:
    """Same shape, and no whole numbers where the network computes with others."""
    if not isinstance(ours, Tensor):
        return True
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        return False
    return theirs.dtype.is_floating_point or not ours.dtype.is_floating_point


def _text(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"({type(value).__name__})"
    whole = "" if value.dtype.is_floating_point or value.ndim == 0 else f" {value.dtype}"
    return f"{list(value.shape)}{whole}"
