"""What a checkpoint may name, and why each is harmless.

* Module classes and enums that torch.nn, torchvision's and timm's networks and layers define.
  A module is made empty and given its state; its constructor, which may fetch weights from the
  network, never runs. An enum is looked up by its value.
* Functions that put tensors and plain containers together, each written anew in
  ``pickled_values``, so that nothing else can come of them.
* As mere values: layer classes and activation functions of ``_CALLED_FREELY``, which networks
  store and may call. What they do with any arguments was read: they compute and allocate.

Left out although they lie in allowed packages: graph modules and scripts (their state is source
code), what talks to other processes, and transforms, which call what they are given.
"""

from __future__ import annotations

import enum
import functools
import importlib
import re
from dataclasses import dataclass

import torch
from torch import fx, nn

from fairdeploy.errors import ModelError
from fairdeploy.inputs.torchvision_compat import ensure_torchvision

_PACKAGES = (
    "torch.nn.modules",
    "torch.nn.parallel.data_parallel",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms.functional",  # the enum InterpolationMode
    "timm.models",
    "timm.layers",
)
_CODE_CARRYING_CLASSES = (fx.GraphModule, torch.jit.ScriptModule)
_CALLED_FREELY = ("torch.nn.modules", "torchvision.ops", "timm.layers")
_ACTIVATIONS = re.compile(
    r"(torch\.nn\.functional|torch\._C\._nn|torch|timm\.layers\.activations)"
    r"\.(relu6?|[gsc]?elu|silu|mish|hard(swish|sigmoid|tanh)|leaky_relu|softplus|sigmoid|tanh"
    r"|softmax)"
)
_PLAIN_TYPES = {
    f"builtins.{t.__name__}": t for t in (bool, int, float, str, list, dict, tuple, set)
}
_TENSOR_TYPES = frozenset(("torch.Tensor", "torch.nn.parameter.Buffer"))
_DOTTED = re.compile(r"\w+(\.\w+)+", re.ASCII)
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a pickle; what it stands for is looked up where it is used."""

    name: str

    @property
    def package(self) -> str:
        """All but the last part."""
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        """The last part."""
        return self.name.rpartition(".")[2]


def storage_dtype(named: Named) -> torch.dtype | None:
    """The type of the numbers in a storage class of torch."""
    is_torch = named.package in ("torch", "torch.storage", "torch.cuda")
    return _STORAGES.get(named.last) if is_torch else None


def constant(named: Named) -> object:
    """A number type or memory layout of torch, or None."""
    found = getattr(torch, named.last, None) if named.package == "torch" else None
    return found if isinstance(found, torch.dtype | torch.layout | torch.memory_format) else None


def module_class(named: Named) -> type[nn.Module] | None:
    """The module class, if its instances may be loaded."""
    found = _found(named)
    is_module = isinstance(found, type) and issubclass(found, nn.Module)
    return found if is_module else None


def enum_class(named: Named) -> type[enum.Enum] | None:
    """The enum, if its members may be loaded."""
    found = _found(named)
    is_enum = isinstance(found, type) and issubclass(found, enum.Enum)
    return found if is_enum else None


def free_callable(named: Named) -> object:
    """A layer class or activation that is harmless whoever calls it, or None."""
    if named.name in _PLAIN_TYPES:
        return _PLAIN_TYPES[named.name]
    if _ACTIVATIONS.fullmatch(named.name):
        owner = importlib.import_module(named.package)
        return getattr(owner, named.last, None)
    found = module_class(named)
    if found is None or not _is_within(found.__module__, _CALLED_FREELY):
        return None
    return found


def is_allowed(named: Named) -> bool:
    """Whether a name has any use here, apart from the functions of ``pickled_values``."""
    return (
        storage_dtype(named) is not None
        or constant(named) is not None
        or named.name in _TENSOR_TYPES
        or free_callable(named) is not None
        or _found(named) is not None
    )


@functools.lru_cache(maxsize=4096)
def _found(named: Named) -> type | None:
    if not _is_within(named.package, _PACKAGES) or not _DOTTED.fullmatch(named.name):
        return None
    if not named.name.startswith("torch."):
        ensure_torchvision()
    try:
        found = getattr(importlib.import_module(named.package), named.last)
    except (ImportError, AttributeError, ValueError) as error:
        library = ".".join(named.name.split(".")[: 2 if named.name.startswith("torch.") else 1])
        raise ModelError(
            f"the checkpoint needs '{named.name[:100]}', which the installed {library} does not "
            f"have; install the {library} version that saved it, or save a state dict and give "
            "--arch"
        ) from error
    return found if _is_safe_class(found) else None


def _is_safe_class(found: object) -> bool:
    # The class must be *defined* in an allowed package: modules also hold what they import.
    if not isinstance(found, type) or not _is_within(found.__module__, _PACKAGES):
        return False
    if issubclass(found, nn.Module):
        is_plain = found.__new__ is object.__new__
        return is_plain and not issubclass(found, _CODE_CARRYING_CLASSES)
    return issubclass(found, enum.Enum)


def _is_within(module_name: str, packages: tuple[str, ...]) -> bool:
    return any(module_name == one or module_name.startswith(f"{one}.") for one in packages)
