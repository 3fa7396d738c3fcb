"""Imports all that a check needs, in the server that every model's process is a fork of."""

from __future__ import annotations

from fairdeploy.inputs.torchvision_compat import ensure_torchvision

ensure_torchvision()

# after it, since torchvision may not import without
import onnxruntime  # noqa: E402, F401
import onnxscript  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch.onnx._internal.exporter._core  # noqa: E402, F401

import tests.conformance.worker  # noqa: E402, F401
