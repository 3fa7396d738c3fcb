"""Whether ONNX Runtime can really run files on a profile's providers: it is tried."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fairdeploy.errors import ExportError
from fairdeploy.records import TargetProfile
from fairdeploy_onnx.runner import OnnxRunner, import_onnxruntime
from fairdeploy_onnx.session import ProviderError, require_providers


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
