"""TensorRT engines as fairdeploy exporters: TensorRT, TensorRT for RTX, and torch-tensorrt."""

from __future__ import annotations

from fairdeploy_tensorrt.exporter import TensorrtExporter, TensorrtRtxExporter
from fairdeploy_tensorrt.runner import EngineRunner
from fairdeploy_tensorrt.torch_exporter import TorchTensorrtExporter

__all__ = ["EngineRunner", "TensorrtExporter", "TensorrtRtxExporter", "TorchTensorrtExporter"]
