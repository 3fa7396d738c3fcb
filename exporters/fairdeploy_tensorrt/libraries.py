"""The two libraries with TensorRT's Python API, and what they say when something goes wrong."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from fairdeploy.errors import ExportError


@dataclass(frozen=True, slots=True)
class Library:
    """A library that builds and runs engines."""

    module: str
    title: str
    extra: str
    is_gpu_needed_to_build: bool
    """Whether it times kernels on the GPU while it builds; then an engine fits that GPU only."""

    def missing(self) -> str | None:
        """None if it is installed, else how to install it; it is not imported."""
        if find_spec(self.module) is not None:
            return None
        return f"{self.title} is not installed; {self.install}"

    @property
    def install(self) -> str:
        """What to do to get it."""
        return f"run pip install 'fairdeploy[{self.extra}]'"

    def load(self) -> Any:
        """The module.

        Raises:
            ExportError: It is missing or broken.
        """
        try:
            return importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            raise ExportError(
                f"{self.title} cannot be imported ({_first_line(error)}); {self.install}"
            ) from error

    def messages(self) -> Any:
        """The library's logger, which keeps errors and prints nothing; cleared."""
        logger = _logger(self.module)
        logger.errors.clear()
        return logger


TENSORRT = Library("tensorrt", "TensorRT", "tensorrt", is_gpu_needed_to_build=True)
TENSORRT_RTX = Library(
    "tensorrt_rtx", "TensorRT for RTX", "tensorrt-rtx", is_gpu_needed_to_build=False
)


def reason(messages: Any, error: BaseException | None = None) -> str:
    """The first error that the library has logged, else what ``error`` says."""
    logged = [str(text).strip() for text in messages.errors if str(text).strip()]
    if logged:
        return logged[0].splitlines()[0][:300]
    return _first_line(error) if error is not None else "it does not say why"


@cache
def _logger(module: str) -> Any:
    """One for each library: it keeps to the first that it was given."""
    trt: Any = importlib.import_module(module)

    class Collector(trt.ILogger):  # type: ignore[misc]
        """Keeps what is at least an error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by the library, from any thread."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)

    return Collector()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
