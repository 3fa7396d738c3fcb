"""What can go from a network, what can't, and why: behind ``fairdeploy inspect``."""

from fairdeploy.runs.inspect.document import inspect, inspection_document

__all__ = ["inspect", "inspection_document"]
