"""Runs ONNX files with ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fairdeploy.deployment.devices.device_facts import usable_cores
from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature, TargetProfile
from fairdeploy_onnx.session import ProviderError, one_line, open_session, runtime_versions_of

_NUMPY_TYPES = {"float": "float32", "double": "float64"}
"""Types that ONNX Runtime calls otherwise than NumPy."""


class OnnxRunner(Runner):
    """One ONNX Runtime session."""

    def __init__(
        self,
        path: Path,
        profile: TargetProfile,
        configure: Callable[[Any], None] | None = None,
    ) -> None:
        """Open ``path``; ``configure`` may change the ``SessionOptions`` before.

        Raises:
            ExportError: ONNX Runtime is missing, the file is not ONNX, or another provider than
                the profile's would run it.
        """
        if not path.is_file():
            raise ExportError(f"no ONNX file '{path}'")
        # ONNX Runtime's own default counts all of the machine's.
        self.threads = profile.threads or usable_cores()
        self._session: Any = _open(path, profile, self.threads, configure)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.input_signature = tuple(_signature(node) for node in self._session.get_inputs())
        self.versions = runtime_versions_of(import_onnxruntime(), self.providers)
        self._input_names = tuple(one.name for one in self.input_signature)
        self.precision = _precision(self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """Outputs for one batch.

        Raises:
            ExportError: A wrong number of inputs, a wrong shape, or the file is closed.
        """
        if self._session is None:
            raise ExportError("this ONNX file was closed; open it again")
        if len(inputs) != len(self._input_names):
            raise ExportError(
                f"this ONNX file takes {len(self._input_names)} inputs "
                f"({', '.join(self._input_names)}), got {len(inputs)}"
            )
        feed = dict(zip(self._input_names, inputs, strict=True))
        try:
            return tuple(self._session.run(None, feed))
        except Exception as error:  # ONNX Runtime's exceptions have no public base
            misfit = self._misfit(inputs)
            raise ExportError(misfit or f"ONNX Runtime failed: {one_line(error)}") from error

    def end_profiling(self) -> Path:
        """The file with the profile of all runs, which ``configure`` has asked for."""
        return Path(self._session.end_profiling())

    def _misfit(self, inputs: tuple[NDArray[Any], ...]) -> str:
        """Which input has a size that the file does not take; empty if none has."""
        for told, array in zip(self.input_signature, inputs, strict=True):
            pairs = zip(told.sizes, array.shape, strict=False)
            is_wrong = any(isinstance(size, int) and size != found for size, found in pairs)
            if is_wrong or len(told.sizes) != array.ndim:
                wanted = ", ".join(str(size or "?") for size in told.sizes)
                return f"input '{told.name}' takes [{wanted}], got {list(array.shape)}"
        return ""

    def close(self) -> None:
        """Give the session's memory and threads back."""
        self._session = None


def import_onnxruntime() -> Any:
    """The library.

    Raises:
        ExportError: It is missing or broken.
    """
    try:
        import onnxruntime  # optional library
    except ImportError as error:
        raise ExportError(
            f"onnxruntime cannot be imported ({error}); run pip install 'fairdeploy[cpu]', "
            "or 'fairdeploy[gpu]' beside CUDA"
        ) from error
    return onnxruntime


def _open(
    path: Path, profile: TargetProfile, threads: int, configure: Callable[[Any], None] | None
) -> Any:
    onnxruntime = import_onnxruntime()
    try:
        return open_session(onnxruntime, path, profile.providers, threads, configure)
    except ProviderError as error:
        raise ExportError(
            f"ONNX Runtime cannot run '{path.name}' on {', '.join(error.missing)}, which target "
            f"'{profile.name}' asks for; it has {', '.join(error.found)}; choose another target, "
            "or install the onnxruntime build for that device"
        ) from error
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise ExportError(f"'{path.name}' cannot be opened as ONNX: {one_line(error)}") from error


def _precision(told: Mapping[str, str]) -> str | None:
    """What the file says, or full where fairdeploy wrote it; None for files of others."""
    is_ours = any(key.startswith("fairdeploy.") for key in told)
    return told.get("fairdeploy.precision", "fp32" if is_ours else None)


def _signature(node: Any) -> InputSignature:
    """Name, type and sizes of an input node; ``tensor(float)`` is NumPy's float32."""
    found = re.fullmatch(r"tensor\((\w+)\)", str(node.type))
    element = found[1] if found else str(node.type)
    sizes = tuple(size if isinstance(size, int | str) else None for size in node.shape)
    return InputSignature(node.name, _NUMPY_TYPES.get(element, element), sizes)
