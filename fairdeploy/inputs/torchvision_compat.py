"""Makes torchvision (and so timm) importable beside a torch build that it was not compiled for.

torchvision from PyPI is built for CUDA. Beside a CPU-only torch its operator library does not
load, and the import stops with "operator torchvision::nms does not exist". Declaring the two
operators by hand is enough for models and transforms; box operators still do not work.
"""

from __future__ import annotations

import importlib
import sys

import torch

from fairdeploy.errors import ModelError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A library whose last reference goes takes its operators with it.
_declared_operators: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Import torchvision, declaring its missing operators where its build does not fit torch's.

    Safe to call any number of times; call it before the first import of timm or torchvision.

    Raises:
        ModelError: torchvision is not installed, or fails to import for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ModelError(
            f"this model needs torchvision, but module '{error.name}' is not installed; "
            "run pip install torchvision"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise ModelError(f"torchvision cannot be imported: {error}") from error
        _import_with_declared_operators()


def _import_with_declared_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared_operators.append(library)
    # The failed import leaves half-initialised submodules behind.
    for name in [key for key in sys.modules if key.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"torchvision cannot be imported: {error}") from error
