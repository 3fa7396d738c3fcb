"""Opens ONNX files on the providers that were asked for, or not at all.

This file needs Python 3.8 and is handed ``onnxruntime``, so that a copy of it runs on any device.
It imports nothing of fairdeploy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_ERROR_NUMBER = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Fatal error: )?")
_SILENT = 4
"""ONNX Runtime's log level 'fatal': errors come as exceptions, nothing is printed."""


class ProviderError(ValueError):
    """ONNX Runtime lacks a provider, or would run the file elsewhere without saying so."""

    def __init__(self, missing: Sequence[str], found: Sequence[str]) -> None:
        self.missing = tuple(missing)
        self.found = tuple(found)
        super().__init__(
            f"ONNX Runtime cannot run on {', '.join(missing)}; it has {', '.join(found)}"
        )


def open_session(
    onnxruntime: Any,
    path: Path,
    providers: Sequence[str],
    threads: int,
    configure: Callable[[Any], None] | None = None,
) -> Any:
    """An ``InferenceSession`` on all of ``providers``; ``configure`` may change its options.

    Raises:
        ProviderError: One of them is missing; ONNX Runtime itself falls back to the CPU without
            an error, and that would be a false claim.
        Exception: Whatever ONNX Runtime raises for a file that it cannot read.
    """
    require_providers(providers, onnxruntime.get_available_providers())
    options = _session_options(onnxruntime, threads)
    if configure is not None:
        configure(options)
    session = onnxruntime.InferenceSession(
        str(path),
        options,
        providers=list(providers),
        enable_fallback=0,  # it would print, and run on the CPU
    )
    require_providers(providers, session.get_providers())
    return session


def require_providers(wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise ``ProviderError`` unless all that are wanted are found."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ProviderError(missing, found)


def runtime_versions_of(onnxruntime: Any, providers: Sequence[str]) -> dict[str, str]:
    """Of ONNX Runtime, and of CUDA where it is used and the build tells."""
    versions = {"onnxruntime": str(onnxruntime.__version__)}
    cuda = getattr(onnxruntime, "cuda_version", "")
    if cuda and any(name.startswith(("CUDA", "Tensorrt")) for name in providers):
        versions["cuda"] = str(cuda)
    return versions


def one_line(error: BaseException) -> str:
    """The first line of what ONNX Runtime says, without its error number."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _ERROR_NUMBER.sub("", lines[0])[:300] if lines else type(error).__name__


def _session_options(onnxruntime: Any, threads: int) -> Any:
    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take cores from the other network in an A/B measurement.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
