"""Finds user code by its name: ``package.module:factory`` or ``path/to/file.py:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fairdeploy.errors import FairdeployError
from fairdeploy.inputs.torchvision_compat import ensure_torchvision


@contextmanager
def importable_folders(*folders: Path, come_last: bool = False) -> Iterator[None]:
    """Let the block import modules from ``folders``; an installed command does not see them.

    Args:
        folders: Where to look.
        come_last: After all other places, so that no module there stands in for an installed one.
    """
    added = [str(folder) for folder in folders]
    place = len(sys.path) if come_last else 0
    sys.path[place:place] = added
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def load_factory(spec: str, error: type[FairdeployError]) -> Callable[..., object]:
    """Import the function or class that ``spec`` names; this runs the user's module.

    Raises:
        FairdeployError: Of type ``error``: nothing there, the import fails, or it is not callable.
    """
    module_name, _, name = spec.rpartition(":")
    ensure_torchvision()  # the user's module is likely to import it, or timm, which does
    with importable_folders(Path.cwd()):
        module = _import_user_module(module_name, error)
    factory = getattr(module, name, None)
    if factory is None:
        raise error(f"'{module_name}' has no '{name}'; name a function or class defined there")
    if not callable(factory):
        raise error(f"'{spec}' is a {type(factory).__name__}; name a function or class")
    return factory  # type: ignore[no-any-return]


def _import_user_module(module_name: str, error: type[FairdeployError]) -> ModuleType:
    try:
        if module_name.endswith(".py"):
            return _import_file(Path(module_name), error)
        return importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        raise error(
            f"cannot import '{module_name}': no module '{missing.name}'; "
            "run from the folder that holds it, or give path/to/file.py:factory"
        ) from missing
    except FairdeployError:
        raise
    except Exception as failure:  # user code: anything can happen at import
        raise error(
            f"importing '{module_name}' fails with {type(failure).__name__}: {one_line(failure)}"
        ) from failure


def _import_file(path: Path, error: type[FairdeployError]) -> ModuleType:
    if not path.is_file():
        raise error(f"no file '{path}'; give path/to/file.py:factory or package.module:factory")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise error(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Pickling and dataclasses look classes up by module name. An installed module that happens to
    # have the same name keeps its place.
    previous = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        with importable_folders(path.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem, None)
        raise
    finally:
        if previous is not None:
            sys.modules[path.stem] = previous
    return module


def one_line(failure: BaseException, limit: int = 200) -> str:
    """First line of an exception's text, cut to ``limit`` characters."""
    text = str(failure).strip().splitlines()
    return text[0][:limit] if text else type(failure).__name__
