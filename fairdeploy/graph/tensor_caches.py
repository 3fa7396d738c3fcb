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


@contextlib.contextmanager
def emptied_caches(module: nn.Module) -> Iterator[None]:
    """Empty them for a while; afterwards they hold again what they held (changes ``module``)."""
    with restored_caches(module):
        for _, cache in tensor_caches(module):
            cache.clear()
        yield


@contextlib.contextmanager
def restored_caches(module: nn.Module) -> Iterator[None]:
    """Whatever a forward puts in is gone afterwards (changes ``module``)."""
    before = [(child, name, cache, dict(cache)) for child, name, cache in _dictionaries(module)]
    try:
        yield
    finally:
        for child, name, cache, content in before:
            cache.clear()
            cache.update(content)
            child.__dict__[name] = cache


def tensor_caches(module: nn.Module) -> list[tuple[nn.Module, dict[Any, Any]]]:
    """The dictionaries that hold tensors and nothing else, with their modules."""
    return [
        (child, cache)
        for child, _, cache in _dictionaries(module)
        if cache and all(isinstance(value, Tensor) for value in cache.values())
    ]


def _dictionaries(module: nn.Module) -> Iterator[tuple[nn.Module, str, dict[Any, Any]]]:
    for child in module.modules():
        for name, value in list(vars(child).items()):
            if type(value) is dict and not _is_torch_s(name):
                yield child, name, value


def _is_torch_s(name: str) -> bool:
    """Whether torch keeps the dictionary: parameters, buffers, submodules, hooks."""
    return name in {"_parameters", "_buffers", "_modules"} or name.endswith("_hooks")
