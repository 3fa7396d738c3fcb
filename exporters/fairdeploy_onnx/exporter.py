"""Writes ONNX: one self-contained file, any batch size, no trace of the machine that made it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, NetworkDims, OperatorTime, TargetProfile, TensorNames
from fairdeploy_onnx import device_main, operator_profile, session
from fairdeploy_onnx.attention import prepare_attention
from fairdeploy_onnx.conversion import OnnxConversion
from fairdeploy_onnx.model_files import MAX_PROTOBUF_BYTES, checked_files, described
from fairdeploy_onnx.node_sources import SOURCE_KEY, source_names
from fairdeploy_onnx.operator_times import operator_times, told_operator_times
from fairdeploy_onnx.runner import OnnxRunner
from fairdeploy_onnx.splits import prepare_splits

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

    from fairdeploy_onnx.width_template import WidthTemplate
from fairdeploy_onnx.runner import import_onnxruntime
from fairdeploy_onnx.session import ProviderError, require_providers

PRECISION = "fp32"

_REQUIRED = ("onnx", "onnxscript", "onnxruntime")
_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")


class OnnxExporter(OnnxConversion):
    """Exports through ``torch.onnx`` and opens files with ONNX Runtime."""

    name = "onnx"
    file_suffix = ".onnx"

    def is_available(self) -> str | None:
        """None if all three libraries are installed, else which are missing."""
        missing = [library for library in _REQUIRED if find_spec(library) is None]
        if not missing:
            return None
        return (
            f"exporter 'onnx' needs {' and '.join(missing)}; run pip install 'fairdeploy[cpu]', "
            "or 'fairdeploy[gpu]' beside CUDA"
        )

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if a small file opens on the profile's providers, else what is in the way."""
        if profile.precision not in self.precisions:
            return f"the exporter 'onnx' does not write precision '{profile.precision}'"
        return unusable_because(profile)

    def device_sources(self) -> tuple[str, ...]:
        """The files that measure on a device with numpy and ONNX Runtime alone."""
        return tuple(map(inspect.getsource, (session, operator_profile, device_main)))

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        """Write ``module`` as ONNX; weights lie in the file unless they exceed 2 GiB.

        Without ``names``, inputs are called ``input`` (or ``input_0``, …), outputs ``output`` (or
        ``output_0``, …). The dynamic axis of all is ``batch``.

        Raises:
            ExportError: An operation has no ONNX form, the result is invalid, or the disk refused.
        """
        with _quiet():
            program = _onnx_program(module, example_inputs, names, dynamic_batch=dynamic_batch)
            _replace_metadata(program.model, metadata, source_names(program, module))
            is_large = _weight_bytes(program) > MAX_PROTOBUF_BYTES
            with checked_files(path) as written:
                program.save(written, external_data=is_large)
        return described(path, PRECISION, has_weights_beside=is_large)

    def open(self, path: Path, profile: TargetProfile) -> OnnxRunner:
        """Open an ONNX file on the profile's providers.

        Raises:
            ExportError: Not an ONNX file, or ONNX Runtime would run it on another provider.
        """
        self._require_precision(profile)
        runner = OnnxRunner(path, profile)
        if profile.precision != PRECISION and runner.precision == PRECISION:
            runner.close()
            raise ExportError(
                f"target '{profile.name}' is for {profile.precision} files, and '{path.name}' is "
                f"{PRECISION}; shrink for another target, then run fairdeploy export DIR "
                f"--precision {profile.precision}"
            )
        return runner

    def operator_times(
        self,
        path: Path,
        inputs: tuple[NDArray[Any], ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """The median time of each operator, in the order in which they run.

        Raises:
            ExportError: As from ``open``, or ONNX Runtime fails to run it.
        """
        self._require_precision(profile)
        return operator_times(path, inputs, profile, num_runs=num_runs)

    def told_operator_times(self, path: Path, told: Mapping[str, Any]) -> tuple[OperatorTime, ...]:
        """What a device told of the operators of a file that it was sent."""
        return told_operator_times(path, told)

    def width_template(
        self,
        original: Path,
        probe: Path,
        dims: NetworkDims,
        lengths: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> WidthTemplate | None:
        """Files of other widths from files of two; None if these differ in more than lengths."""
        from fairdeploy_onnx.width_template import Untraceable, WidthTemplate

        try:
            return WidthTemplate(original, probe, dims, lengths)
        except Untraceable:
            return None

    def _require_precision(self, profile: TargetProfile) -> None:
        """Refuse a profile for files that ONNX does not come in here."""
        if profile.precision not in self.precisions:
            choices = ", ".join(self.precisions)
            raise ExportError(
                f"target '{profile.name}' asks for precision '{profile.precision}', which the "
                f"exporter 'onnx' does not write; it writes {choices}"
            )


def _onnx_program(
    module: fx.GraphModule,
    example_inputs: tuple[Tensor, ...],
    names: TensorNames | None,
    *,
    dynamic_batch: bool,
) -> ONNXProgram:
    varying = names.sizes if names is not None else ({},) * len(example_inputs)
    any_length = torch.export.Dim.DYNAMIC
    batch = {0: any_length} if dynamic_batch else {}
    shapes = tuple(
        batch | {dim: any_length(min=s.smallest, max=s.largest) for dim, s in sizes.items()}
        for sizes in varying
    )
    # torch.export cannot give two inputs one named axis; torch.onnx can.
    axes = tuple(
        dict.fromkeys(batch, "batch") | {dim: size.name for dim, size in sizes.items()}
        for sizes in varying
    )
    is_dynamic = any(axes)
    try:
        with torch.no_grad():
            exported = torch.export.export(
                module, example_inputs, dynamic_shapes=shapes if is_dynamic else None
            )
        prepare_attention(exported)
        prepare_splits(exported)
        inputs, outputs = _tensor_names(exported, names)
        program = torch.onnx.export(
            exported,
            (),
            None,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=axes if is_dynamic else None,
        )
    except Exception as error:  # torch raises many kinds here
        raise ExportError(f"this network has no ONNX form: {_reason(error)}") from error
    assert program is not None
    restore_lost_constants(program.model.graph)
    # torch's own optimiser can leave a node before what it reads
    program.model.graph.sort()
    return program


def _tensor_names(
    exported: torch.export.ExportedProgram, names: TensorNames | None
) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs; an output called like an input gets another name."""
    signature = exported.graph_signature
    if names is None:
        num_inputs, num_outputs = len(signature.user_inputs), len(signature.user_outputs)
        return _numbered("input", num_inputs), _numbered("output", num_outputs)
    outputs = [f"{name}_out" if name in names.inputs else name for name in names.outputs]
    return list(names.inputs), outputs


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{index}" for index in range(count)]


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    if "_tensors.SymbolicTensor" in str(error):
        return (
            "a number in one of its calls counts with the batch, as the groups of convolutions "
            "with weights for each image do; give --fixed-batch with the number of images that it "
            "shall take at once"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def _replace_metadata(model: Any, metadata: Mapping[str, str], sources: Mapping[int, str]) -> None:
    """Store ``metadata`` and drop torch's (changes ``model``).

    Torch's metadata holds source paths of this machine in every node; of that only the name of the
    torch node stays.
    """
    graph = model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()
        if id(node) in sources:
            node.metadata_props[SOURCE_KEY] = sources[id(node)]
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update(metadata)


def _weight_bytes(program: ONNXProgram) -> int:
    weights = program.model.graph.initializers.values()
    return sum(weight.const_value.nbytes for weight in weights if weight.const_value is not None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and log lines of torch and onnxscript from the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ---- constants that torch.onnx's optimiser drops although nodes read them ------------------------


def restore_lost_constants(graph: Any) -> None:
    """Store every constant that some node reads (changes ``graph``, an ``onnx_ir`` graph)."""
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and _is_lost(value):
                while value.name in graph.initializers:
                    value.name = f"{value.name}_"
                graph.register_initializer(value)


def _is_lost(value: Any) -> bool:
    """Whether a value has content, but no place in any graph."""
    has_place = value.is_initializer() or value.is_graph_input() or value.producer() is not None
    return not has_place and value.const_value is not None


# ---- whether ONNX Runtime can really run files on a profile's providers: it is tried -------------


def unusable_because(profile: TargetProfile) -> str | None:
    """None if a small file opens on the profile's providers, else what is in the way."""
    try:
        available = import_onnxruntime().get_available_providers()
        require_providers(profile.providers, available)
    except ExportError as error:
        return str(error)
    except ProviderError as error:
        return (
            f"ONNX Runtime has no {' and no '.join(error.missing)} here; install the "
            "onnxruntime build for that device"
        )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "probe.onnx"
            _write_probe(path)
            OnnxRunner(path, profile).close()
    except ExportError:
        return (
            f"ONNX Runtime lists {', '.join(profile.providers)} but cannot use it; its device, "
            "driver or libraries are missing"
        )
    return None


def _write_probe(path: Path) -> None:
    """The smallest network: ONNX Runtime tells only on opening one where it would run it."""
    import onnx  # optional library: imported when an exporter is really used

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
