"""Finds every set of weights in a checkpoint, wherever a training script may have put it.

Averaged weights are told by their names: they are what their authors evaluate. Two trainers store
them the other way round: mmengine's ``ema_state_dict`` and Lightning's ``current_model_state`` are
the weights of the last step, and ``state_dict`` beside them is the average.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

TOP = "."
"""How the user names what lies at the top of a file."""

Weights = dict[str, object]
"""Tensors by name; names that end in ``_extra_state`` may have any value."""

_MAX_NESTING = 4
_MAX_SETS = 64
_NOT_WEIGHTS = re.compile(
    r"optim(izers?)?|(lr)?sched(ulers?)?|scaler|criterion|loss(es|fn)?|grads?|momentum|masks?"
    r"|rng|metrics?"
)
_AVERAGED = re.compile(
    r"(model|net|netg|g|params|weights)?(ema|swa)\d*(model|net|params|weights)?"
    r"|avg|averaged?|averaging|shadow|polyak"
)
_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "timm.utils.model_ema.ModelEma": "ema",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Weights at one place of a checkpoint."""

    path: tuple[str, ...]
    """Keys on the way; empty at the top."""
    weights: Weights
    preference: int
    """1: averaged, 0: plain, -1: what the averaged were made from, or no average yet."""
    others: tuple[str, ...] = ()
    """Names beside the tensors."""
    module: nn.Module | None = None
    """The whole network, where the checkpoint holds it."""


def find_weight_sets(checkpoint: object) -> tuple[WeightSet, ...]:
    """Every module and every dictionary of tensors, outermost first; optimizers are left out."""
    found = islice(_walk(checkpoint, (), _raw_key(checkpoint)), _MAX_SETS)
    return tuple(sorted(found, key=lambda item: len(item.path)))


def is_averaged_name(name: str) -> bool:
    """Whether a key or module path says that it holds averaged weights."""
    return any(_AVERAGED.fullmatch(word) for word in _words(name))


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside data-parallel, averaging and compiling wrappers."""
    kind = type(module)
    inner = _WRAPPERS.get(f"{kind.__module__}.{kind.__qualname__}")
    child = getattr(module, inner) if inner else None
    return unwrapped(child) if isinstance(child, nn.Module) else module


def _walk(value: object, path: tuple[str, ...], raw_key: str | None) -> Iterator[WeightSet]:
    if isinstance(value, nn.Module):
        if not path or any(True for _ in value.parameters()):
            preference = _preference(path, value.state_dict(), raw_key)
            network = unwrapped(value)
            yield WeightSet(path, dict(network.state_dict()), preference, module=network)
        return
    if not isinstance(value, (Mapping, list)) or len(path) > _MAX_NESTING:
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    nested = [(str(key), item) for key, item in items if isinstance(key, (str, int))]
    weights: Weights = {
        name: item
        for name, item in nested
        if isinstance(item, Tensor) or name.endswith("_extra_state")
    }
    if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in weights.values()):
        others = tuple(name for name, _ in nested if name not in weights)
        yield WeightSet(path, weights, _preference(path, weights, raw_key), others)
    for name, item in nested:
        if name not in weights and not any(_NOT_WEIGHTS.fullmatch(word) for word in _words(name)):
            yield from _walk(item, (*path, name), raw_key)


def _preference(path: tuple[str, ...], weights: Mapping[str, object], raw_key: str | None) -> int:
    count = weights.get("n_averaged")
    if isinstance(count, Tensor):
        return 1 if count.numel() == 1 and float(count) > 0 else -1
    if raw_key is not None and path:
        return {"state_dict": 1, raw_key: -1}.get(path[0], 0)
    return 1 if any(map(is_averaged_name, path)) else 0


def _raw_key(checkpoint: object) -> str | None:
    """The key of the last step's weights, where ``state_dict`` holds the averaged ones."""
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        return None
    if "current_model_state" in checkpoint and "averaging_state" in checkpoint:
        return "current_model_state"
    meta = checkpoint.get("meta")
    is_mmengine = "message_hub" in checkpoint or (
        isinstance(meta, Mapping) and "mmengine_version" in meta
    )
    return "ema_state_dict" if is_mmengine and "ema_state_dict" in checkpoint else None


def _words(name: str) -> list[str]:
    """``modelEMA_0.999`` as ``model``, ``ema``, ``0``, ``999``."""
    return [word.lower() for word in re.findall(r"[A-Z]*[a-z0-9]+|[A-Z]+", name[:200])]
