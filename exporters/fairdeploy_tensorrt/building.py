"""Builds an engine from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairdeploy.errors import ExportError
from fairdeploy_tensorrt.libraries import Library, reason
from fairdeploy_tensorrt.onnx_input import OnnxInput
from fairdeploy_tensorrt.timing_cache import TimingCache

BATCHES = ((1, 1, 1), (1, 16, 64))
"""Smallest, likeliest and largest batch of each optimization profile: kernels are chosen for the
likeliest one. A single image is what devices run, so it has kernels of its own."""


def build_engine(
    library: Library, onnx_path: Path, found: OnnxInput, cache: TimingCache | None
) -> bytes:
    """The serialised engine.

    Args:
        library: Builds it.
        onnx_path: The network.
        found: What was read of it.
        cache: Kernel times of earlier builds, which this one adds to; None: the library times none.

    Raises:
        ExportError: There is no GPU, an operator that the library lacks, or the build failed.
    """
    trt = library.load()
    messages = library.messages()
    builder = _builder(trt, library, messages)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, library, network, onnx_path, messages)
    config = builder.create_builder_config()
    for sizes in BATCHES if found.batched else ():
        profile = builder.create_optimization_profile()
        for name, rest in found.batched.items():
            profile.set_shape(name, *((batch, *rest) for batch in sizes))
        config.add_optimization_profile(profile)
    if cache is not None:
        cache.hand_to(config)
    try:
        engine = builder.build_serialized_network(network, config)
    except (RuntimeError, TypeError, MemoryError) as error:
        raise _not_built(library, onnx_path, reason(messages, error)) from error
    if engine is None:
        raise _not_built(library, onnx_path, reason(messages))
    if cache is not None:
        cache.take_from(config)
    return bytes(engine)


def _builder(trt: Any, library: Library, messages: Any) -> Any:
    try:
        return trt.Builder(messages)
    except (RuntimeError, TypeError) as error:  # what the bindings raise without a driver
        raise ExportError(
            f"{library.title} cannot build engines here: {reason(messages, error)}; it needs an "
            "NVIDIA GPU and its driver; fairdeploy doctor tells what is there"
        ) from error


def _network_flags(trt: Any) -> int:
    """Types as the ONNX file has them, which newer versions do without being told."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, library: Library, network: Any, path: Path, messages: Any) -> None:
    parser = trt.OnnxParser(network, messages)
    if parser.parse_from_file(str(path)):
        return
    if parser.num_errors == 0:
        raise ExportError(f"{library.title} cannot read '{path.name}': {reason(messages)}")
    error = parser.get_error(0)
    operator, node = _text(error, "node_operator"), _text(error, "node_name")
    where = f" operator '{operator}' (node '{node}') of" if operator else ""
    lines = [line.strip() for line in str(error.desc()).splitlines() if line.strip()]
    raise ExportError(
        f"{library.title} cannot take{where} '{path.name}': "
        f"{lines[0][:300] if lines else 'it does not say why'}"
    )


def _text(error: Any, name: str) -> str:
    """What an older version's error may not tell."""
    tell = getattr(error, name, None)
    return str(tell()) if tell is not None else ""


def _not_built(library: Library, path: Path, why: str) -> ExportError:
    return ExportError(f"{library.title} cannot build an engine from '{path.name}': {why}")
