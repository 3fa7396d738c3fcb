"""ONNX files and ONNX Runtime as a fairdeploy exporter."""

from __future__ import annotations

from fairdeploy_onnx.exporter import OnnxExporter
from fairdeploy_onnx.runner import OnnxRunner

__all__ = ["OnnxExporter", "OnnxRunner"]
