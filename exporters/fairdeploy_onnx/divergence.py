"""Where a file first parts from the fp32 one: values of the same name, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.records import Divergence
from fairdeploy_onnx.model_files import Batch, computed_values, opened, run_batch, with_outputs
from fairdeploy_onnx.node_sources import SOURCE_KEY

_VALUES_AT_ONCE = 64
_TINY = 1e-30


def first_divergence(
    reference: Any, suspect: Any, inputs: Batch, limit: float
) -> Divergence | None:
    """The first node of ``reference`` whose result differs by more than ``limit`` in ``suspect``.

    Args:
        reference: Model of the fp32 file.
        suspect: Model of the file that failed; its values keep the names of the fp32 file's.
        inputs: One batch.
        limit: Largest allowed difference, relative to the largest value of the result.

    Returns:
        None where no value that both have differs by more.
    """
    shared = _shared_values(reference, suspect)
    sessions = [opened(with_outputs(model, shared)) for model in (reference, suspect)]
    for start in range(0, len(shared), _VALUES_AT_ONCE):
        names = shared[start : start + _VALUES_AT_ONCE]
        both = (run_batch(session, inputs, names) for session in sessions)
        for name, expected, got in zip(names, *both, strict=True):
            error = _relative_error(expected, got)
            if not error <= limit:
                return _described(reference, name, error)
    return None


def _shared_values(reference: Any, suspect: Any) -> list[str]:
    also = set(computed_values(suspect))
    return [name for name in computed_values(reference) if name in also]


def _relative_error(expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        return float("inf")
    if expected.size == 0 or not np.issubdtype(expected.dtype, np.floating):
        return 0.0
    difference = np.abs(got.astype(np.float64) - expected).max()
    error = float(difference / max(float(np.abs(expected).max()), _TINY))
    return error if np.isfinite(error) else float("inf")


def _described(model: Any, value: str, error: float) -> Divergence:
    node = next(node for node in model.graph.node if value in node.output)
    source = {item.key: item.value for item in node.metadata_props}.get(SOURCE_KEY, "")
    return Divergence(node.name, node.op_type, source, error)
