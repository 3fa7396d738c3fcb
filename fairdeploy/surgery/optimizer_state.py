"""An optimizer for the shrunk network that goes on where the original's stopped.

Momentum and second moments belong to single weights, so they are sliced exactly like them.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from fairdeploy.errors import OptimizerError
from fairdeploy.graph.capture.weight_folding import SUFFIX
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.removal import StayingIndices, slice_tensor

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)
Masks = tuple[NDArray[np.bool_], ...]
_OF_EVERY_OPTIMIZER = {"defaults", "state", "param_groups"}


def kept_masks(graph: UnitGraph, removed: NDArray[np.bool_]) -> dict[str, Masks]:
    """By tensor name: which indices stay in each dimension, as ``slice_tensor`` takes them."""
    stays = StayingIndices(graph, removed)
    return {
        name: tuple(stays.mask(units) for units in dims)
        for name, dims in graph.tensor_units.items()
    }


def sliced_optimizer(
    optimizer: AnyOptimizer,
    model: nn.Module,
    network: nn.Module,
    kept: Mapping[str, Masks],
) -> AnyOptimizer:
    """An optimizer of the same class over ``network``; the given one stays as it is.

    Parameter groups and their settings are kept; parameters that ``optimizer`` does not hold stay
    out, as do those that are gone. State of a parameter's shape is sliced as the parameter is,
    single numbers are copied. A weight that the graph computed once joins the group of what it was
    made from, without state.

    Args:
        model: The original, whose parameters ``optimizer`` holds.
        network: Without the removed units; of the model's class or a graph module.
        kept: From ``kept_masks``.

    Raises:
        OptimizerError: It holds a parameter that is not the model's, or state of another kind
            (factored moments, a history), which can't be sliced.
    """
    _refuse_own_tensors(optimizer)
    names = {id(tensor): name for name, tensor in model.named_parameters(remove_duplicate=False)}
    new_parameters = dict(network.named_parameters(remove_duplicate=False))
    state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
    groups = []
    for group in optimizer.param_groups:
        kept_parameters = []
        for old in group["params"]:
            name = names.get(id(old))
            if name is None:
                raise OptimizerError(
                    f"the optimizer holds a parameter of shape {list(old.shape)} that is not the "
                    "model's; give the optimizer that was made for this model"
                )
            new = new_parameters.get(name)
            if new is None:  # now part of a weight that is computed once, or gone with a branch
                kept_parameters += _folded_from(name, new_parameters)
                continue
            kept_parameters.append(new)
            if old in optimizer.state:
                state[new] = _sliced_state(optimizer, old, name, kept.get(name))
        settings = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        groups.append({"params": kept_parameters, **settings})
    return _with_contents(optimizer, groups, state)


def _folded_from(name: str, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """What stands for a parameter that the network no longer has; its state starts anew."""
    return [found for other, found in parameters.items() if other.startswith(f"{name}{SUFFIX}")]


def _with_contents(
    optimizer: AnyOptimizer, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]]
) -> AnyOptimizer:
    # constructors differ from class to class; what unpickling does fits them all
    result = type(optimizer).__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        if name not in _OF_EVERY_OPTIMIZER and not _is_torch_s(name):
            setattr(result, name, copy.deepcopy(value))
    defaults = copy.deepcopy(optimizer.defaults)
    result.__setstate__({"defaults": defaults, "state": state, "param_groups": groups})
    return result


def _sliced_state(
    optimizer: Optimizer, parameter: Tensor, name: str, kept: Masks | None
) -> dict[str, Any]:
    return {
        key: _sliced(optimizer, parameter, name, kept, key, value)
        for key, value in optimizer.state[parameter].items()
    }


def _sliced(
    optimizer: Optimizer,
    parameter: Tensor,
    name: str,
    kept: Masks | None,
    key: str,
    value: Any,
) -> Any:
    if isinstance(value, Tensor):
        if value.shape == parameter.shape:
            return value.detach().clone() if kept is None else slice_tensor(value, kept)
        if value.numel() == 1:
            return value.detach().clone()
    elif not _holds_tensors(value):
        return copy.deepcopy(value)
    what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise OptimizerError(
        f"state '{key}' of {type(optimizer).__name__} for '{name}' ({what}) does not go weight by "
        f"weight (shape {list(parameter.shape)}); start a new optimizer on the shrunk network"
    )


def _refuse_own_tensors(optimizer: Optimizer) -> None:
    """Wrappers keep parameters or another optimizer in attributes, which would stay the old ones.

    Raises:
        OptimizerError: It is one of those.
    """
    for name, value in vars(optimizer).items():
        is_own = name not in _OF_EVERY_OPTIMIZER and not _is_torch_s(name)
        if is_own and (isinstance(value, Optimizer) or _holds_tensors(value)):
            raise OptimizerError(
                f"{type(optimizer).__name__} keeps tensors in '{name}', which can't be sliced; "
                "start a new optimizer on the shrunk network"
            )


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def _is_torch_s(name: str) -> bool:
    """Hooks and marks that torch's base class sets up itself."""
    return name.endswith("_hooks") or name in {"_zero_grad_profile_name", "_patched_step", "step"}
