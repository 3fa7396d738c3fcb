"""Opens checkpoints without letting them run code.

A pickle is a program: it can call any function that it names. So it is not given to Python's own
reader but to ``PickleMachine``, which knows a short list of names (``pickled_names``) and does no
more with them than put together tensors, plain data, and modules.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError, UnsafePickleError
from fairdeploy.files import open_regular
from fairdeploy.inputs.archives import ZIP_ERRORS, is_archive, opened_archive
from fairdeploy.inputs.factories import importable_folders, one_line
from fairdeploy.inputs.module_state import check_tree
from fairdeploy.inputs.names import shown
from fairdeploy.inputs.pickle_machine import NotAllowed, names_in
from fairdeploy.inputs.pickled_values import Refused
from fairdeploy.inputs.state_dicts import quantised
from fairdeploy.inputs.torch_files import NoCheckpoint, read_old_format, read_zip

_SHOWN_NAMES = 8
_QUANTISED = re.compile(r"\.QU?Int\w+Storage$|_rebuild_qtensor$|\bquantized\.|^torchao\.")
# Views of one storage may show its numbers more than once, as tied weights do.
_MAX_SHARED = 8
_FREE_BYTES = 2**28


def load_checkpoint(path: Path, *, trust_pickle: bool) -> object:
    """What ``torch.save`` wrote, tensors on the CPU.

    Args:
        path: A file in either of torch's formats; not a TorchScript archive.
        trust_pickle: Open it with the full unpickler, which runs whatever the file says.

    Raises:
        UnsafePickleError: The file names something that is not on the safe list, or asks for
            something else that is not given; nothing ran.
        ModelError: The file is damaged, or was made with other versions of its libraries.
    """
    if trust_pickle:
        return _load_trusted(path)
    try:
        with open_regular(path) as file:
            size_bytes = path.stat().st_size
            content = read_zip(file, size_bytes) if is_archive(file) else read_old_format(file)
        _check_growth(content, size_bytes)
        return content
    except NotAllowed as error:
        raise _not_allowed(path, list_unsafe_globals(path) or [str(error)]) from error
    except Refused as error:
        raise UnsafePickleError(
            f"'{path}' is refused: it {error}; save a state dict and give --arch, or add "
            "--trust-pickle if you trust its author"
        ) from error
    except NoCheckpoint as error:
        raise _other_pickle(path, error) from error
    except (*ZIP_ERRORS, RecursionError) as error:
        raise damaged(path, error) from error


def list_unsafe_globals(path: Path) -> list[str]:
    """Names in a checkpoint that are not on the safe list, sorted; nothing is run."""
    names: set[str] = set()
    try:
        with open_regular(path) as file:
            archive = is_archive(file)
            content = io.BytesIO(b"" if archive else file.read())
        if archive:
            with opened_archive(path, ModelError) as opened:
                pickles = [one for one in opened.namelist() if one.endswith("/data.pkl")]
                return sorted(names_in(io.BytesIO(opened.read(pickles[0]))))
        for _ in range(4):  # magic number, version, facts about the machine, the object
            names |= names_in(content)
    except (*ZIP_ERRORS, TypeError) as error:
        if not names:
            raise damaged(path, error) from error
    return sorted(names)


def refusal_text(path: Path, names: list[str]) -> str:
    """The one line that says why ``path`` stays shut and what to do."""
    told = ", ".join(shown(name) for name in names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (
        f"'{path}' would run code of its own: it names {told}{more}; "
        "only module classes of torch.nn, torchvision and timm are loaded unasked; "
        "save a state dict and give --arch, or add --trust-pickle if you trust its author"
    )


def _check_growth(content: object, size_bytes: int) -> None:
    """Refuse tensors that would take far more memory than the file has, if they were copied."""
    if isinstance(content, nn.Module):
        check_tree(content)
    values = content.values() if isinstance(content, dict) else (content,)
    modules = [value for value in values if isinstance(value, nn.Module)]
    for module in modules:
        check_tree(module)
    nested = [value for value in values if isinstance(value, dict)]
    tensors = [value for table in (dict(enumerate(values)), *nested) for value in table.values()]
    total = _num_bytes(tensors) + sum(
        _num_bytes(module.state_dict().values()) for module in modules
    )
    if total > _FREE_BYTES + _MAX_SHARED * size_bytes:
        raise Refused(f"spreads its {size_bytes:,} bytes over tensors of {total:,}")


def _num_bytes(values: Iterable[object]) -> int:
    tensors = {id(value): value for value in values if isinstance(value, Tensor)}
    return sum(one.numel() * one.itemsize for one in tensors.values() if not one.is_meta)


def _other_pickle(path: Path, error: Exception) -> ModelError:
    try:
        names = list_unsafe_globals(path)
    except ModelError:
        names = []
    return _not_allowed(path, names) if names else damaged(path, error)


def _not_allowed(path: Path, names: list[str]) -> ModelError:
    """Trusting its author would not help with a quantised network."""
    told = next(filter(_QUANTISED.search, names), None)
    return UnsafePickleError(refusal_text(path, names)) if told is None else quantised(path, told)


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
