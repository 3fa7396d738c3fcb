"""Runs engines on the GPU; torch holds the memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature, TargetProfile
from fairdeploy_tensorrt.device import gpu_name, require_gpu
from fairdeploy_tensorrt.engine_tag import require_match
from fairdeploy_tensorrt.libraries import Library, reason

DEVICE = torch.device("cuda")


class EngineRunner(Runner):
    """One engine with one execution context."""

    def __init__(self, path: Path, profile: TargetProfile, library: Library) -> None:
        """Open ``path``.

        Raises:
            ExportError: No such file, no GPU, or the engine was built for something else.
        """
        if not path.is_file():
            raise ExportError(f"no engine '{path}'")
        trt = library.load()
        content = path.read_bytes()
        require_gpu()
        require_match(
            path, content, library=library.title, version=str(trt.__version__), gpu=gpu_name(),
            precision=profile.precision,
        )  # fmt: skip
        self.providers: tuple[str, ...] = profile.providers
        self.threads = profile.threads or 1
        self.versions = {library.module: str(trt.__version__), "cuda": str(torch.version.cuda)}
        self._set_up(path, content, trt, library, DEVICE)

    def _set_up(
        self, path: Path, content: bytes, trt: Any, library: Library, device: torch.device
    ) -> None:
        self._messages = library.messages()
        self._library = library
        self._device = device
        self._stream = _stream(device)
        # The engine needs its runtime as long as it lives.
        self._runtime: Any = trt.Runtime(self._messages)
        self._engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise ExportError(
                f"'{path.name}' cannot be opened by {library.title} {trt.__version__}: "
                f"{reason(self._messages)}"
            )
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise ExportError(
                f"'{path.name}' does not fit the GPU's memory: {reason(self._messages)}"
            )
        self._profile = 0
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._inputs = tuple(name for name in names if is_input[name])
        self._outputs = tuple(name for name in names if not is_input[name])
        self.input_signature = tuple(self._signature(name) for name in self._inputs)

    def run(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """Outputs for one batch.

        Raises:
            ExportError: A wrong number of inputs, a batch that the engine was not built for, or
                the engine is closed.
        """
        if self._engine is None:
            raise ExportError("this engine was closed; open it again")
        if len(inputs) != len(self._inputs):
            raise ExportError(
                f"this engine takes {len(self._inputs)} inputs ({', '.join(self._inputs)}), "
                f"got {len(inputs)}"
            )
        self._messages.errors.clear()
        self._choose_profile(tuple(inputs[0].shape))
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            held = [
                self._place(name, array) for name, array in zip(self._inputs, inputs, strict=True)
            ]
            outputs = [self._reserve(name) for name in self._outputs]
            if not self._context.execute_async_v3(self._handle):
                raise ExportError(f"{self._library.title} failed: {reason(self._messages)}")
            results = tuple(output.cpu().numpy() for output in outputs)
        del held  # until here the engine reads them
        return results

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._context = self._engine = self._runtime = None

    @property
    def _handle(self) -> int:
        return int(self._stream.cuda_stream) if self._stream else 0

    def _choose_profile(self, shape: tuple[int, ...]) -> None:
        """Use the first optimization profile that takes the first input's shape."""
        name, count = self._inputs[0], self._engine.num_optimization_profiles
        if -1 not in tuple(self._engine.get_tensor_shape(name)):
            return
        ranges = []
        for index in range(count):
            smallest, _, largest = self._engine.get_tensor_profile_shape(name, index)
            ranges.append(f"{smallest[0]} to {largest[0]}")
            if all(
                low <= size <= high
                for low, size, high in zip(smallest, shape, largest, strict=False)
            ):
                if index != self._profile:
                    self._context.set_optimization_profile_async(index, self._handle)
                    self._profile = index
                return
        raise ExportError(
            f"this engine was built for batches {' and '.join(ranges)} and got inputs of shape "
            f"{list(shape)}"
        )

    def _place(self, name: str, array: NDArray[Any]) -> torch.Tensor:
        """Copy an input to the GPU and tell the engine where it is."""
        whole = np.ascontiguousarray(array, dtype=self._types[name])
        if not self._context.set_input_shape(name, whole.shape):
            raise ExportError(
                f"input '{name}' of shape {list(whole.shape)} does not fit this engine, which "
                f"takes {list(self._engine.get_tensor_shape(name))}"
            )
        tensor = torch.from_numpy(whole).to(self._device)
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def _reserve(self, name: str) -> torch.Tensor:
        """Memory for an output, whose shape follows from those of the inputs."""
        shape = tuple(self._context.get_tensor_shape(name))
        tensor = torch.from_numpy(np.empty(shape, dtype=self._types[name])).to(self._device)
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def _signature(self, name: str) -> InputSignature:
        sizes = tuple(self._engine.get_tensor_shape(name))
        return InputSignature(
            name,
            self._types[name].name,
            tuple("batch" if size < 0 and place == 0 else None if size < 0 else int(size)
                  for place, size in enumerate(sizes)),
        )  # fmt: skip


def _is_within(shape: Sequence[int], smallest: Sequence[int], largest: Sequence[int]) -> bool:
    sizes = zip(smallest, shape, largest, strict=False)
    return all(low <= size <= high for low, size, high in sizes)


def _stream(device: torch.device) -> Any:
    """A queue of its own on a GPU; None for memory of the CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
