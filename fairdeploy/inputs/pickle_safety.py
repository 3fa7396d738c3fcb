"""Opens checkpoints without letting them run code.

A pickle is a program: it can call any function that it names. So the names are listed first,
without running anything, and the file is opened only when each is on torch's own safe list, plain
data, or a module class or enum of torch.nn, torchvision or timm. Functions are never accepted:
there is no telling what they would be called with.
"""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import importlib
import pathlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import fx, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from fairdeploy.errors import ModelError, UnsafePickleError
from fairdeploy.inputs.factories import importable_folders, one_line
from fairdeploy.torchvision_compat import ensure_torchvision

_ALLOWED_PACKAGES = ("torch.nn", "torchvision", "timm")

# ``functools.partial`` only stores what it is given, and torch's unpickler cannot call it; vision
# transformers keep their norm layer in one. ``argparse.Namespace`` holds training arguments.
_PLAIN_DATA: dict[str, type] = {
    "argparse.Namespace": argparse.Namespace,
    "collections.defaultdict": collections.defaultdict,
    "functools.partial": functools.partial,
    "pathlib.PosixPath": pathlib.PurePosixPath,
    "pathlib.PurePosixPath": pathlib.PurePosixPath,
    **{f"builtins.{kind.__name__}": kind for kind in (bool, float, int, str, list, dict, tuple)},
    **{f"builtins.{kind.__name__}": kind for kind in (frozenset, range, slice)},
}

# Their state is source code, or they run what they hold.
_CODE_CARRYING_MODULES = (fx.GraphModule, torch.jit.ScriptModule)

# Only for files whose names torch's own lister cannot read.
_TORCH_OWN_GLOBALS = (
    "torch._utils._rebuild_",
    "torch._tensor._rebuild_from_type_v2",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "collections.OrderedDict",
    "_codecs.encode",
    "builtins.set",
    "builtins.bytearray",
    "builtins.complex",
)

_SHOWN_NAMES = 8


def load_checkpoint(path: Path, *, trust_pickle: bool) -> object:
    """Unpickle what ``torch.save`` wrote, tensors on the CPU.

    Args:
        path: A file in either of torch's formats; not a TorchScript archive.
        trust_pickle: Open it with the full unpickler, which runs whatever the file says.

    Raises:
        UnsafePickleError: The file names something that is not on the safe list; nothing ran.
        ModelError: The file is damaged, or was made with other versions of its libraries.
    """
    if trust_pickle:
        return _load_trusted(path)
    names = list_unsafe_globals(path)
    resolved = {name: _resolve_allowed(name) for name in names}
    refused = sorted(name for name, allowed in resolved.items() if allowed is None)
    if refused:
        raise UnsafePickleError(refusal_text(path, refused))
    allowed = [(found, name) for name, found in resolved.items() if found is not None]
    return _load_weights_only(path, allowed)


def list_unsafe_globals(path: Path) -> list[str]:
    """Names in a checkpoint that torch's own safe list lacks, sorted; nothing is run."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            file.seek(0)
            return _unsafe_globals_in_zip(path, file)
        file.seek(0)
        return _unsafe_globals_in_old_format(path, file)


def refusal_text(path: Path, names: list[str]) -> str:
    """The one line that says why ``path`` stays shut and what to do."""
    shown = ", ".join(names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (
        f"'{path}' would run code of its own: it names {shown}{more}; "
        "only module classes of torch.nn, torchvision and timm are loaded unasked; "
        "save a state dict and give --arch, or add --trust-pickle if you trust its author"
    )


def _unsafe_globals_in_zip(path: Path, file: IO[bytes]) -> list[str]:
    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))
    except (pickle.UnpicklingError, EOFError, IndexError):
        return _unsafe_globals_in_newer_protocol(path)
    except (RuntimeError, ValueError) as error:
        raise damaged(path, error) from error


def _unsafe_globals_in_newer_protocol(path: Path) -> list[str]:
    """What a pickle of protocol 3 to 5 names; torch opens none of these unasked anyway."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            names = _globals_of_pickle(archive.open(members[0]))
    except (zipfile.BadZipFile, ValueError, IndexError, EOFError) as error:
        raise damaged(path, error) from error
    return sorted(name for name in names if not _is_torch_own(name))


def _unsafe_globals_in_old_format(path: Path, file: IO[bytes]) -> list[str]:
    names: set[str] = set()
    try:
        for _ in range(4):  # magic number, protocol, system facts, the object
            names |= _globals_of_pickle(file)
    except (ValueError, IndexError, UnicodeDecodeError, EOFError) as error:
        if not names:
            raise damaged(path, error) from error
    return sorted(name for name in names if not _is_torch_own(name))


def _is_torch_own(name: str) -> bool:
    is_storage = name.startswith("torch.") and name.endswith("Storage") and name.count(".") <= 2
    return is_storage or name.startswith(_TORCH_OWN_GLOBALS)


def _globals_of_pickle(file: IO[bytes]) -> set[str]:
    """Names that one pickle imports, read off its opcodes."""
    names: set[str] = set()
    strings: list[str] = []
    memo: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", ".", 1).replace("__builtin__.", "builtins."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif opcode.name == "MEMOIZE":
            memo.append(strings[-1] if strings else "")
        elif opcode.name in ("BINGET", "LONG_BINGET") and int(argument or 0) < len(memo):
            strings.append(memo[int(argument or 0)])
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def _resolve_allowed(full_name: str) -> type | None:
    """The class or enum behind a pickled name, if it is one that may be loaded."""
    if full_name in _PLAIN_DATA:
        return _PLAIN_DATA[full_name]
    module_name, _, name = full_name.rpartition(".")
    package = next((p for p in _ALLOWED_PACKAGES if _is_within(module_name, p)), None)
    if package is None:
        return None
    if package != "torch.nn":
        ensure_torchvision()
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"the checkpoint needs '{full_name}', which the installed {package} does not have; "
            f"install the {package} version that saved it, or save a state dict and give --arch"
        ) from error
    return found if _is_safe_class(found) else None


def _is_within(module_name: str, package: str) -> bool:
    return module_name == package or module_name.startswith(package + ".")


def _is_safe_class(found: object) -> bool:
    # The class must be *defined* in an allowed package: modules also hold what they import.
    if not isinstance(found, type):
        return False
    if not any(_is_within(found.__module__, package) for package in _ALLOWED_PACKAGES):
        return False
    if issubclass(found, _CODE_CARRYING_MODULES):
        return False
    return issubclass(found, nn.Module | enum.Enum)


def _load_weights_only(path: Path, allowed: list[tuple[type, str]]) -> object:
    entries: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = list(allowed)
    try:
        with safe_globals(entries), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafePickleError(
            f"'{path}' cannot be opened without running it ({_unpickling_reason(error)}); save it "
            "again with a current torch.save, or add --trust-pickle if you trust its author"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        raise damaged(path, error) from error
    except Exception as error:  # restoring a class of another library version can raise anything
        raise ModelError(
            f"'{path}' does not fit the installed libraries: {one_line(error)}; "
            "install the versions that saved it, or save a state dict and give --arch"
        ) from error


def _unpickling_reason(error: pickle.UnpicklingError) -> str:
    # torch wraps the reason in a page of advice on its own API.
    text = str(error)
    for marker in ("WeightsUnpickler error: ", "Unsupported "):
        if marker in text:
            text = text[text.index(marker) :].removeprefix("WeightsUnpickler error: ")
            break
    return text.strip().splitlines()[0][:160] if text.strip() else "unreadable pickle"


def _load_trusted(path: Path) -> object:
    try:
        beside = importable_folders(path.resolve().parent, come_last=True)
        with importable_folders(Path.cwd()), beside, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ModuleNotFoundError) as error:
        raise ModelError(
            f"'{path}' needs a class that cannot be found: {one_line(error)}; run from the folder "
            "of the code that saved it, or save a state dict and give --arch"
        ) from error
    except Exception as error:  # a trusted pickle runs its author's code: anything can happen
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> ModelError:
    """The error for a file that breaks off or holds nonsense."""
    return ModelError(
        f"'{path}' is damaged or not a PyTorch checkpoint ({one_line(error, 120)}); "
        "copy or save the file again"
    )
