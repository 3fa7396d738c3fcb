"""Dictionaries in which a module keeps tensors that its forward computed earlier.

LeViT, for one, looks its attention bias up once and keeps it. Traced as it is, the kept tensor
would be a constant of the graph, and the parameter that it came from would seem unused; and an
export would leave its own fake tensors in there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fairdeploy.graph.capture.module_state import unchanged


@contextlib.contextmanager
def emptied_caches(module: nn.Module) -> Iterator[None]:
    """Empty them for a while; afterwards they hold again what they held (changes ``module``)."""
    with unchanged(module):
        for _, cache in tensor_caches(module):
            cache.clear()
        yield


def tensor_caches(module: nn.Module) -> list[tuple[nn.Module, dict[Any, Any]]]:
    """The dictionaries that hold tensors and nothing else, with their modules."""
    return [
        (child, cache)
        for child, cache in _dictionaries(module)
        if cache and all(isinstance(value, Tensor) for value in cache.values())
    ]


def _dictionaries(module: nn.Module) -> Iterator[tuple[nn.Module, dict[Any, Any]]]:
    for child in module.modules():
        for name, value in list(vars(child).items()):
            if type(value) is dict and not _is_torch_s(name):
                yield child, value


def _is_torch_s(name: str) -> bool:
    """Whether torch keeps the dictionary: parameters, buffers, submodules, hooks."""
    return name in {"_parameters", "_buffers", "_modules"} or name.endswith("_hooks")
