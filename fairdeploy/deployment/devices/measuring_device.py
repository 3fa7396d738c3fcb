"""The device that measures: this machine, or another one by ssh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fairdeploy.deployment.devices.local_device import Device, LocalDevice
from fairdeploy.deployment.devices.remote_device import RemoteDevice
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.records.deployment import HostOptions


@contextmanager
def measuring_device(host: HostOptions | None, exporter: Exporter) -> Iterator[Device]:
    """What races files as long as the block lasts; this machine opens them with ``exporter``."""
    if host is None:
        yield LocalDevice(exporter)
        return
    with RemoteDevice(
        host.host, port=host.port, python=host.python, ssh_options=host.ssh_options
    ) as device:
        yield device
