"""A stand-in for TensorRT's Python API whose engines double their input, on memory of the CPU.

It checks what it is told as the library does: profiles, shapes, addresses, the timing cache.
"""

from __future__ import annotations

import ctypes
import enum
import json
from typing import Any

import numpy as np

__version__ = "10.3.0"

has_gpu = True
"""Whether a builder can be made."""
builds: list[dict[str, Any]] = []
"""What each build was given."""


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    def log(self, severity: str, message: str) -> None: ...


def nptype(kind: str) -> Any:
    return np.dtype(kind).type


class _ParserError:
    def desc(self) -> str:
        return "no importer registered for op: Frobnicate\nsecond line"

    def node_operator(self) -> str:
        return "Frobnicate"

    def node_name(self) -> str:
        return "node_7"


class OnnxParser:
    def __init__(self, network: Any, logger: ILogger) -> None:
        self.num_errors = 0

    def parse_from_file(self, path: str) -> bool:
        self.num_errors = int("frobnicate" in path)
        return self.num_errors == 0

    def get_error(self, index: int) -> _ParserError:
        return _ParserError()


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert len(shapes) == 3
        self.shapes[name] = list(shapes)


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []
        self.cache: _Cache | None = None

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> _Cache:
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"other"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _Cache | None:
        return self.cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        if not has_gpu:
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> dict[str, Any]:
        return {"flags": flags}

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: dict[str, Any], config: _Config) -> bytes:
        cache = config.cache.content if config.cache else None
        builds.append({"flags": network["flags"], "cache": cache})
        return json.dumps([profile.shapes for profile in config.profiles]).encode()


class _Context:
    def __init__(self, profiles: list[dict[str, Any]]) -> None:
        self.profiles, self.profile = profiles, 0
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.profiles[self.profile][name]
        sizes = zip(smallest, shape, largest, strict=False)
        fits = len(shape) == len(smallest) and all(a <= size <= b for a, size, b in sizes)
        self.shape = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self.shape))
        kind = ctypes.c_float * count
        source = np.ctypeslib.as_array(kind.from_address(self.addresses["input"]))
        result = np.ctypeslib.as_array(kind.from_address(self.addresses["output"]))
        result[:] = 2 * source
        return True


class _Engine:
    num_io_tensors = 2

    def __init__(self, profiles: list[dict[str, Any]]) -> None:
        self.profiles = profiles
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return ("input", "output")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "input" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.profiles[0]["input"][0][1:])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[index][name]]

    def create_execution_context(self) -> _Context:
        return _Context(self.profiles)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
        try:
            return _Engine(json.loads(content))
        except ValueError:
            self.logger.log(ILogger.WARNING, "a warning is not the reason")
            self.logger.log(ILogger.ERROR, "magicTag mismatch\nmore")
            return None
