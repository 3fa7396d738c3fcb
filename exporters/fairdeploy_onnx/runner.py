"""Runs ONNX files with ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fairdeploy.device_facts import usable_cores
from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature, TargetProfile

_SILENT = 4
"""ONNX Runtime's log level 'fatal': errors come as exceptions, nothing is printed."""


_NUMPY_TYPES = {"float": "float32", "double": "float64"}
"""Types that ONNX Runtime calls otherwise than NumPy."""


class OnnxRunner:
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
        self._session: Any = _open_session(path, profile, self.threads, configure)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self._require_providers(path, profile)
        self.input_signature = tuple(_signature(node) for node in self._session.get_inputs())
        self.versions = _versions(self.providers)
        self._input_names = tuple(one.name for one in self.input_signature)

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
            raise ExportError(f"ONNX Runtime failed: {_one_line(error)}") from error

    def end_profiling(self) -> Path:
        """The file with the profile of all runs, which ``configure`` has asked for."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Give the session's memory and threads back."""
        self._session = None

    def _require_providers(self, path: Path, profile: TargetProfile) -> None:
        """ONNX Runtime falls back to the CPU without an error; that would be a false claim."""
        missing = tuple(name for name in profile.providers if name not in self.providers)
        if missing:
            self.close()
            raise _wrong_provider(path, profile, missing, self.providers)


def _signature(node: Any) -> InputSignature:
    """Name, type and sizes of an input node; ``tensor(float)`` is NumPy's float32."""
    element = str(node.type).removeprefix("tensor(").removesuffix(")")
    sizes = tuple(size if isinstance(size, int | str) else None for size in node.shape)
    return InputSignature(node.name, _NUMPY_TYPES.get(element, element), sizes)


def _versions(providers: tuple[str, ...]) -> dict[str, str]:
    """Of ONNX Runtime, and of CUDA where it is used and the build tells."""
    onnxruntime = _onnxruntime()
    cuda = getattr(onnxruntime, "cuda_version", "")
    uses_gpu = any(name.startswith(("CUDA", "Tensorrt")) for name in providers)
    versions = {"onnxruntime": str(onnxruntime.__version__)}
    return versions | {"cuda": str(cuda)} if cuda and uses_gpu else versions


def missing_providers(profile: TargetProfile) -> tuple[str, ...]:
    """The profile's providers that this build of ONNX Runtime lacks.

    Raises:
        ExportError: ONNX Runtime cannot be imported.
    """
    known = _onnxruntime().get_available_providers()
    return tuple(name for name in profile.providers if name not in known)


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # optional library
    except ImportError as error:
        raise ExportError(
            f"onnxruntime cannot be imported ({error}); run pip install 'fairdeploy[cpu]', "
            "or 'fairdeploy[gpu]' beside CUDA"
        ) from error
    return onnxruntime


def _open_session(
    path: Path, profile: TargetProfile, threads: int, configure: Callable[[Any], None] | None
) -> Any:
    onnxruntime = _onnxruntime()
    missing = missing_providers(profile)
    if missing:
        known = tuple(onnxruntime.get_available_providers())
        raise _wrong_provider(path, profile, missing, known)
    options = _session_options(onnxruntime, threads)
    if configure is not None:
        configure(options)
    try:
        return onnxruntime.InferenceSession(
            path,
            options,
            providers=list(profile.providers),
            enable_fallback=0,  # it would print, and run on the CPU
        )
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise ExportError(f"'{path.name}' cannot be opened as ONNX: {_one_line(error)}") from error


def _session_options(onnxruntime: Any, threads: int) -> Any:
    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take cores from the other network in an A/B measurement.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _wrong_provider(
    path: Path, profile: TargetProfile, missing: tuple[str, ...], found: tuple[str, ...]
) -> ExportError:
    return ExportError(
        f"ONNX Runtime cannot run '{path.name}' on {', '.join(missing)}, which target "
        f"'{profile.name}' asks for; it has {', '.join(found)}; choose another target, or install "
        "the onnxruntime build for that device"
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
