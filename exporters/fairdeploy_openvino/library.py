"""The libraries OpenVINO and NNCF, and what OpenVINO's devices can do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from fairdeploy.errors import ExportError

NOTES, NODES = "fairdeploy", "nodes"
"""Keys in the IR's runtime information: all that we note, and the torch node of each node."""

EXTRA = "run pip install 'fairdeploy[openvino]'"

INFERENCE_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""In what OpenVINO computes, by precision; of an int8 file it is what stays in float."""

_CAPABILITIES = {"fp16": "FP16", "bf16": "BF16"}
_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """The library.

    Raises:
        ExportError: It is missing or broken.
    """
    try:
        with _without_telemetry():
            import openvino  # optional library
    except (ImportError, OSError) as error:
        raise ExportError(f"openvino cannot be imported ({error}); {EXTRA}") from error
    return openvino


def import_nncf() -> Any:
    """The library that quantises.

    Raises:
        ExportError: It is missing or broken.
    """
    try:
        with _without_telemetry():
            import nncf  # optional library
    except (ImportError, OSError) as error:
        raise ExportError(
            f"int8 needs nncf, which cannot be imported ({error}); {EXTRA}"
        ) from error
    return nncf


def has_nncf() -> bool:
    """Whether NNCF is installed; it is not imported."""
    return find_spec("nncf") is not None


def computes(core: Any, device: str, precision: str) -> bool:
    """Whether ``device`` itself computes in ``precision``; fp32 and int8 files run everywhere."""
    needed = _CAPABILITIES.get(precision)
    return needed is None or needed in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def one_line(error: BaseException) -> str:
    """What OpenVINO says, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or [type(error).__name__])[0][:300]


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let no library find the one that reports each import and use to OpenVINO's makers."""
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
