"""Finds the weights in a checkpoint and puts them into a network of the right shape."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fairdeploy.errors import ModelError

Weights = dict[str, Tensor]

# Where training scripts keep the network inside a checkpoint, best first: averaged weights are
# what their authors evaluate, but the plain ones are what "the model" names.
_NESTING_KEYS = ("state_dict", "model", "model_state_dict", "net", "network", "module", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MAX_NESTING = 3


def find_network(checkpoint: object) -> nn.Module | Weights | None:
    """The module or the dictionary of tensors in a checkpoint, also when it is nested."""
    for _ in range(_MAX_NESTING):
        if isinstance(checkpoint, nn.Module):
            return checkpoint
        if not isinstance(checkpoint, Mapping):
            return None
        weights = _as_weights(checkpoint)
        if weights is not None:
            return weights
        nested = [checkpoint[key] for key in _NESTING_KEYS if checkpoint.get(key) is not None]
        if not nested:
            return None
        checkpoint = nested[0]
    return None


def _as_weights(mapping: Mapping[object, object]) -> Weights | None:
    if not mapping:
        return None
    weights = {key: value for key, value in mapping.items() if isinstance(value, Tensor)}
    if len(weights) != len(mapping) or not all(isinstance(key, str) for key in weights):
        return None
    return {str(key): value for key, value in weights.items()}


def strip_wrappers(weights: Weights, expected_keys: set[str]) -> Weights:
    """Remove the name prefixes that data-parallel and compiled wrappers add.

    A prefix goes only if all names carry it and the network does not have it itself.
    """
    for _ in range(_MAX_NESTING):
        for prefix in _PREFIXES:
            is_wrapped = all(name.startswith(prefix) for name in weights)
            is_own = any(name.startswith(prefix) for name in expected_keys)
            if is_wrapped and not is_own:
                weights = {name[len(prefix) :]: value for name, value in weights.items()}
                break
        else:
            break
    return weights


def infer_num_classes(weights: Weights, network: nn.Module) -> int | None:
    """The number of classes the weights have, if only the classifier's length differs.

    Returns:
        None when the shapes agree, or differ in more than one first dimension.
    """
    expected = network.state_dict()
    if weights.keys() != expected.keys():
        return None
    lengths: set[tuple[int, int]] = set()
    for name, theirs in weights.items():
        ours = expected[name]
        if theirs.shape == ours.shape:
            continue
        if theirs.ndim == 0 or ours.ndim == 0 or theirs.shape[1:] != ours.shape[1:]:
            return None
        lengths.add((ours.shape[0], theirs.shape[0]))
    return lengths.pop()[1] if len(lengths) == 1 else None


def fill_network(network: nn.Module, weights: Weights, *, source: str, arch: str) -> None:
    """Copy ``weights`` into ``network``, which is changed only if all of them fit.

    Raises:
        ModelError: Names the first weights that are missing, surplus or of another shape.
    """
    expected = network.state_dict()
    problems = _mismatches(weights, expected)
    if problems:
        shown = "; ".join(problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ModelError(
            f"'{source}' does not fit --arch {arch}: {shown}{more}; give the architecture and "
            "options that it was trained with"
        )
    network.load_state_dict(weights, strict=False)


def _mismatches(weights: Weights, expected: Mapping[str, object]) -> list[str]:
    problems = [
        f"'{name}' is {_shape(weights[name])} in the file, {_shape(ours)} in the network"
        for name, ours in expected.items()
        if name in weights and isinstance(ours, Tensor) and weights[name].shape != ours.shape
    ]
    # Old checkpoints lack this counter, which inference never reads.
    missing = [
        name
        for name, ours in expected.items()
        if name not in weights and not name.endswith("num_batches_tracked")
    ]
    surplus = [name for name in weights if name not in expected]
    problems += [f"the file lacks '{name}' {_shape(expected[name])}" for name in missing]
    problems += [f"the network lacks '{name}' {_shape(weights[name])}" for name in surplus]
    return problems


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"({type(value).__name__})"
