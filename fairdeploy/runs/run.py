"""What a run works with from its first stage to its last."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fairdeploy.deployment.devices.local_device import Device
from fairdeploy.deployment.devices.remote_device import measuring_device
from fairdeploy.deployment.exporter_api import BrokenExporter, Exporter
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.deployment.latency.measure import require_this_machine
from fairdeploy.files import check_output_folder
from fairdeploy.records import TargetProfile
from fairdeploy.runs.progress import Progress, Stopwatch
from fairdeploy.settings.run import RunSettings
from fairdeploy.settings.target_profiles import load_profile

SettingsT = TypeVar("SettingsT", bound=RunSettings)
SettingsT_co = TypeVar("SettingsT_co", bound=RunSettings, covariant=True)


@dataclass(frozen=True, slots=True)
class Run(Generic[SettingsT_co]):
    """What was asked for, where it is measured, and who listens."""

    settings: SettingsT_co
    profile: TargetProfile
    """The target as it was named; what races go by is ``Problem.profile``."""
    exporter: Exporter
    device: Device
    watch: Stopwatch
    scratch: Path
    """For files that nobody keeps; gone with the run."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn at random."""
        return self.settings.model.seed


@contextmanager
def open_run(
    settings: SettingsT, progress: Progress | None = None, *, exports: bool = True
) -> Iterator[Run[SettingsT]]:
    """Refuse what can be known to be wrong before the network is read; then be ready to work.

    Args:
        settings: What was asked for.
        progress: Listens to the stages; None: silence.
        exports: Whether files are written and measured; else the target's runtime may be missing.

    Raises:
        FairdeployError: The output folder, the target, its exporter or the device is wrong.
    """
    check_output_folder(settings.output, force=settings.force)
    profile = load_profile(settings.target)
    if settings.with_latency and settings.host is None:
        require_this_machine(profile)
    exporter: Exporter = BrokenExporter(profile.runtime, "nothing is exported")
    if exports:
        exporter = exporter_for(profile)
    with (
        measuring_device(settings.host, exporter) as device,
        tempfile.TemporaryDirectory(prefix="fairdeploy-") as scratch,
    ):
        yield Run(settings, profile, exporter, device, Stopwatch(progress), Path(scratch))
