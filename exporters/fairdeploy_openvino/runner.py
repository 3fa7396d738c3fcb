"""Runs IR and ONNX files with OpenVINO, in the precision that was asked for or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fairdeploy.deployment.devices.device_facts import usable_cores
from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature, TargetProfile
from fairdeploy_openvino.library import (
    INFERENCE_TYPES,
    computes,
    import_openvino,
    one_line,
    require_network,
)


class OpenvinoRunner(Runner):
    """A network compiled for the profile's batch, and for any other batch when one comes.

    OpenVINO is slower where it must be ready for any size, and on a device the batch is known.
    """

    def __init__(
        self, path: Path, profile: TargetProfile, options: dict[str, Any] | None = None
    ) -> None:
        """Open ``path``; ``options`` are OpenVINO's, added to the profile's.

        Raises:
            ExportError: OpenVINO is missing, cannot read the file, or lacks the device or the
                precision.
        """
        require_network(path)
        openvino = import_openvino()
        self.threads = profile.threads or usable_cores()
        self.versions = {"openvino": str(openvino.__version__)}
        self._name = path.name
        self._core: Any = openvino.Core()
        self._device = _device(self._core, path, profile)
        self._options = _options(self._core, self._device, profile, self.threads) | (options or {})
        self.model: Any = self._read(path)
        self.input_signature = tuple(_signature(port) for port in self.model.inputs)
        self._usual_batch = profile.batch
        self._any_batch: Any = None
        self.compiled: Any = self._compile(self._at_usual_batch())
        self.request: Any = self.compiled.create_infer_request()
        self.providers: tuple[str, ...] = tuple(self.compiled.get_property("EXECUTION_DEVICES"))
        self._require_precision(profile)

    def run(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """Outputs for one batch.

        Raises:
            ExportError: A wrong number of inputs, a wrong shape, or the file is closed.
        """
        if self.model is None:
            raise ExportError("this OpenVINO file was closed; open it again")
        if len(inputs) != len(self.input_signature):
            names = ", ".join(one.name for one in self.input_signature)
            raise ExportError(
                f"this OpenVINO file takes {len(self.input_signature)} inputs ({names}), "
                f"got {len(inputs)}"
            )
        try:
            results = self._request_for(inputs).infer(dict(enumerate(inputs)), share_inputs=True)
        except RuntimeError as error:  # OpenVINO's exceptions have no public base
            raise ExportError(f"OpenVINO failed: {one_line(error)}") from error
        return tuple(results.values())

    def close(self) -> None:
        """Give OpenVINO's memory and threads back."""
        self.model = self.compiled = self.request = self._any_batch = self._core = None

    def _read(self, path: Path) -> Any:
        try:
            return self._core.read_model(str(path))
        except RuntimeError as error:  # as above
            raise ExportError(
                f"'{path.name}' cannot be opened by OpenVINO: {one_line(error)}"
            ) from error

    def _compile(self, model: Any) -> Any:
        try:
            return self._core.compile_model(model, self._device, self._options)
        except RuntimeError as error:  # as above
            raise ExportError(
                f"OpenVINO cannot run '{self._name}' on {self._device}: {one_line(error)}"
            ) from error

    def _at_usual_batch(self) -> Any:
        """The network with the profile's batch fixed, where only the batch may vary."""
        if not self._varies_in_batch_alone():
            return self.model
        model = self.model.clone()
        model.reshape(
            {port: [self._usual_batch, *list(port.partial_shape)[1:]] for port in model.inputs}
        )
        return model

    def _varies_in_batch_alone(self) -> bool:
        shapes = [list(port.partial_shape) for port in self.model.inputs]
        return all(
            shape and shape[0].is_dynamic and not any(size.is_dynamic for size in shape[1:])
            for shape in shapes
        )

    def _request_for(self, inputs: tuple[NDArray[Any], ...]) -> Any:
        is_usual = all(array.shape[:1] == (self._usual_batch,) for array in inputs)
        if is_usual or not self._varies_in_batch_alone():
            return self.request
        if self._any_batch is None:
            self._any_batch = self._compile(self.model).create_infer_request()
        return self._any_batch

    def _require_precision(self, profile: TargetProfile) -> None:
        wanted = self._options["INFERENCE_PRECISION_HINT"]
        found = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != wanted:
            raise ExportError(
                f"target '{profile.name}' asks for {profile.precision}, and OpenVINO would compute "
                f"in {found} on this {self._device}; choose another target"
            )


def _device(core: Any, path: Path, profile: TargetProfile) -> str:
    """The profile's only provider.

    Raises:
        ExportError: OpenVINO does not have it.
    """
    wanted, *more = profile.providers
    if more or wanted not in core.available_devices:
        raise ExportError(
            f"OpenVINO cannot run '{path.name}' on {', '.join(profile.providers)}, which target "
            f"'{profile.name}' asks for; it has {', '.join(core.available_devices)}; name one of "
            "these in the profile"
        )
    return wanted


def _options(core: Any, device: str, profile: TargetProfile, threads: int) -> dict[str, Any]:
    if profile.precision not in INFERENCE_TYPES:
        raise ExportError(
            f"target '{profile.name}' asks for precision '{profile.precision}', which OpenVINO "
            f"does not have; use one of {', '.join(INFERENCE_TYPES)}"
        )
    # Half-precision weights are computed with in fp32 where the device has no better.
    halves = profile.precision != "fp16" or computes(core, device, "fp16")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": INFERENCE_TYPES[profile.precision] if halves else "f32",
    }
    if device == "CPU":
        # The profile's affinity says which cores; two networks in a race must not hold on to some.
        options |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    return options


def _signature(port: Any) -> InputSignature:
    """Name, type and sizes; a first size that varies is the batch."""
    sizes = tuple(
        ("batch" if place == 0 else None) if size.is_dynamic else size.get_length()
        for place, size in enumerate(port.partial_shape)
    )
    return InputSignature(port.any_name, port.element_type.to_dtype().name, sizes)
