"""OpenVINO's IR files and its runtime as a fairdeploy exporter."""

from __future__ import annotations

from fairdeploy_openvino.exporter import OpenvinoExporter
from fairdeploy_openvino.runner import OpenvinoRunner

__all__ = ["OpenvinoExporter", "OpenvinoRunner"]
