"""The libraries OpenVINO and NNCF, and what OpenVINO's devices can do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairdeploy.errors import ExportError

EXTRA = "run pip install 'fairdeploy[openvino]'"

INFERENCE_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""In what OpenVINO computes, by precision; of an int8 file it is what stays in float."""

_CAPABILITIES = {"fp16": "FP16", "bf16": "BF16"}
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully", "Summary:")
_HEAD_BYTES = 1000
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


def require_network(path: Path) -> None:
    """Raise unless ``path`` looks like IR or ONNX: OpenVINO prints what it makes of other files.

    Raises:
        ExportError: There is no such file, or it holds something else.
    """
    import onnx  # optional library: imported when an exporter is really used

    if not path.is_file():
        raise ExportError(f"no file '{path}'; give an IR or ONNX file")
    with path.open("rb") as file:
        if b"<net" in file.read(_HEAD_BYTES):
            return
    try:
        has_nodes = bool(onnx.load(path, load_external_data=False).graph.node)
    except Exception:  # protobuf and onnx raise many kinds
        has_nodes = False
    if not has_nodes:
        raise ExportError(f"'{path.name}' cannot be opened by OpenVINO: it is neither IR nor ONNX")


def one_line(error: BaseException) -> str:
    """What OpenVINO says, without the places in its sources."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_NOISE)]
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
