"""Another machine that measures, reached by ssh: a board, while this machine prunes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fairdeploy.deployment.devices.device_job import (
    INPUTS_FILE,
    JOB_FILE,
    SCRIPT_FILE,
    inputs_bytes,
    job_text,
    network_files,
    parse_result,
)
from fairdeploy.deployment.devices.device_script import device_script
from fairdeploy.deployment.devices.local_device import Device, LocalDevice
from fairdeploy.deployment.devices.ssh import Content, SshHost
from fairdeploy.deployment.exporter_api import (
    Array,
    Exporter,
    get_exporter,
)
from fairdeploy.deployment.latency.latency_records import comparison_record, measurement_record
from fairdeploy.deployment.latency.measure import race_settings
from fairdeploy.deployment.latency.race import RaceSettings
from fairdeploy.errors import DeviceLostError, MeasurementError
from fairdeploy.records import LatencyComparison, LatencyMeasurement, OperatorTime, TargetProfile
from fairdeploy.records.deployment import HostOptions

_SHORT_SECONDS = 60.0
"""For commands that only look or tidy up."""
_SLOWEST_BYTES_PER_SECOND = 250e3
"""A poor wireless link: below it, a device counts as lost."""
_OPENING_SECONDS = 180.0
"""For importing the runtime and opening two files on a slow device."""
_MIN_PAIRS_SECONDS = 300.0
"""For the calls that are made even if time is up."""


class RemoteDevice:
    """A session on a device: files that were sent stay there until it is closed."""

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        python: str = "python3",
        ssh_options: Sequence[str] = (),
        connect_timeout_s: float = 10.0,
        answer_timeout_s: float | None = None,
    ) -> None:
        """Nothing is sent before the first measurement.

        Args:
            host: ``user@device``, or a name from the user's ssh configuration.
            port: Where its ssh server listens; None: as ssh is configured.
            python: Python 3.8 or newer there, with numpy and the runtime.
            ssh_options: More arguments for ``ssh``: ``("-i", "key")``.
            connect_timeout_s: For making a connection.
            answer_timeout_s: The longest that one measurement may take; None: as long as the
                profile asks for, and a margin for a slow device.
        """
        self._host = SshHost(host, port, python, tuple(ssh_options), connect_timeout_s)
        self._answer_timeout_s = answer_timeout_s
        self._folder: str | None = None
        self._forgotten: list[str] = []
        self._sent: set[str] = set()
        self._script_of: str | None = None

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def compare(
        self,
        original: Path,
        shrunk: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        seed: int,
        decide_ratio: float | None = None,
    ) -> LatencyComparison:
        """Race two files on the device, as ``latency.compare_latency`` does here.

        ``original`` is sent once and stays there; ``shrunk`` is removed after the race.

        Raises:
            DeviceLostError: The device stopped answering.
            MeasurementError: It cannot be reached at all, lacks Python, numpy or the runtime, or
                cannot run a file; or the profile is of another machine.
            ExportError: The profile's runtime cannot measure on other devices.
        """
        settings = replace(race_settings(profile), decide_ratio=decide_ratio)
        text = self._answer((original, shrunk), inputs, profile, settings, seed)
        self._remove(shrunk, unless=original)
        measured, terms = parse_result(text, profile)
        return comparison_record(measured, profile, terms)

    def measure(
        self, path: Path, inputs: tuple[Array, ...], profile: TargetProfile, *, seed: int
    ) -> LatencyMeasurement:
        """Time one file on the device, as ``latency.measure_latency`` does here; same errors."""
        settings = race_settings(profile)
        measured, terms = parse_result(
            self._answer((path,), inputs, profile, settings, seed), profile
        )
        return measurement_record(measured, profile, terms)

    def operator_times(
        self,
        path: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """Time the operators of a file on the device; it stays there.

        Raises:
            DeviceLostError: The device stopped answering.
            MeasurementError: As from ``compare``.
            ExportError: The profile's runtime cannot do that on other devices.
        """
        text = self._answer(
            (path,), inputs, profile, race_settings(profile), 0, profiled_runs=num_runs
        )
        return operator_times_from(text, path, get_exporter(profile.runtime))

    def close(self) -> None:
        """Remove everything that was sent; a device that does not answer keeps it."""
        self._forget()
        if self._forgotten:
            folders = shlex.join(self._forgotten)
            with contextlib.suppress(MeasurementError):
                self._host.run(f"rm -rf -- {folders}", timeout_s=_SHORT_SECONDS)
        self._forgotten.clear()

    def _answer(
        self,
        paths: Sequence[Path],
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        settings: RaceSettings,
        seed: int,
        *,
        profiled_runs: int | None = None,
    ) -> str:
        """What the script prints about the files, which are sent if they are not there yet."""
        names = [_remote_name(path) for path in paths]
        batch = int(inputs[0].shape[0]) if inputs[0].ndim else 1
        content = inputs_bytes(inputs)
        inputs_name = f"{hashlib.sha256(content).hexdigest()[:16]}/{INPUTS_FILE}"
        job = job_text(
            profile, settings, names, inputs_name,
            batch=batch, seed=seed, profiled_runs=profiled_runs,
        )  # fmt: skip
        self._prepare(profile)
        try:
            self._send(dict(zip(names, paths, strict=True)), inputs_name, content, job)
            return self._in_folder(
                f"{shlex.quote(self._host.python)} {SCRIPT_FILE} --json .", self._patience(settings)
            )
        except DeviceLostError:
            self._forget()
            raise

    def _prepare(self, profile: TargetProfile) -> None:
        """Make the folder, send the script, and see whether the libraries are there."""
        if self._folder is not None and self._script_of == profile.runtime:
            return
        self.close()
        script = device_script(get_exporter(profile.runtime))
        first = (
            f"command -v {shlex.quote(self._host.python)} > /dev/null || exit 127; umask 077; "
            'd=$(mktemp -d "${TMPDIR:-/tmp}/fairdeploy.XXXXXX") && cd "$d" && pwd && '
        )
        try:
            printed = self._host.unpack(
                {SCRIPT_FILE: script.encode()}, timeout_s=_SHORT_SECONDS, first=first
            )
        except DeviceLostError as error:
            raise DeviceLostError(
                f"{error}; it must take 'ssh {self._host.host}' without a password"
            ) from error
        self._folder, self._script_of = printed.strip(), profile.runtime
        try:
            self._in_folder(f"{shlex.quote(self._host.python)} -c 'import numpy'", _OPENING_SECONDS)
        except DeviceLostError:
            self._forget()
            raise
        except MeasurementError as error:
            self.close()
            raise MeasurementError(
                f"{error}; run {self._host.python} -m pip install numpy onnxruntime there"
            ) from error

    def _send(self, networks: dict[str, Path], inputs_name: str, inputs: bytes, job: str) -> None:
        """Everything that is not there yet."""
        files: dict[str, Content] = {JOB_FILE: job.encode()}
        if inputs_name not in self._sent:
            files[inputs_name] = inputs
        for name, path in networks.items():
            if name not in self._sent:
                folder = name.rpartition("/")[0]
                files |= {f"{folder}/{file.name}": file for file in network_files(path)}
        timeout_s = _SHORT_SECONDS + _num_bytes(files.values()) / _SLOWEST_BYTES_PER_SECOND
        assert self._folder is not None
        self._host.unpack(
            files, timeout_s=timeout_s, first=f"cd -- {shlex.quote(self._folder)} && "
        )
        self._sent |= {inputs_name, *networks}

    def _remove(self, path: Path, *, unless: Path) -> None:
        """Take a file away again, unless it is the other; it is sent anew next time."""
        name = _remote_name(path)
        if name == _remote_name(unless):
            return
        folder = name.rpartition("/")[0]
        self._sent.discard(name)
        with contextlib.suppress(MeasurementError):
            self._in_folder(f"rm -rf -- {shlex.quote(folder)}", _SHORT_SECONDS)

    def _in_folder(self, command: str, timeout_s: float) -> str:
        assert self._folder is not None
        return self._host.run(
            f"cd -- {shlex.quote(self._folder)} && {command}", timeout_s=timeout_s
        )

    def _patience(self, settings: RaceSettings) -> float:
        """Seconds after which a device that measures counts as lost."""
        if self._answer_timeout_s is not None:
            return self._answer_timeout_s
        num_races = 1 if settings.idle_gap_ms is None else 2
        race_seconds = settings.warmup_seconds + num_races * settings.max_seconds
        return _OPENING_SECONDS + race_seconds + _MIN_PAIRS_SECONDS

    def _forget(self) -> None:
        """Use the folder no more; ``close`` removes it if the device answers again."""
        if self._folder is not None:
            self._forgotten.append(self._folder)
        self._folder, self._script_of = None, None
        self._sent.clear()


def _remote_name(path: Path) -> str:
    """``HASH/model.onnx``: the same content has the same name."""
    digest = hashlib.sha256()
    for file in network_files(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return f"{digest.hexdigest()[:16]}/{path.name}"


def _num_bytes(contents: Iterable[Content]) -> int:
    sizes = (len(one) if isinstance(one, bytes) else one.stat().st_size for one in contents)
    return sum(sizes)


# ---- operator times that were measured on another device: from its answer to records -------------


def operator_times_from(text: str, path: Path, exporter: Exporter) -> tuple[OperatorTime, ...]:
    """What a device printed for a job with ``profiled_runs``.

    Raises:
        ExportError: The exporter has no way to read it.
        MeasurementError: It is no answer of ours.
    """
    try:
        (told,) = json.loads(text)["operators"]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"the device's operator times cannot be read ({type(error).__name__}: {error}); they "
            f"begin with {text[:60]!r}"
        ) from error
    return exporter.told_operator_times(path, told)


# ---- the device that measures: this machine, or another one by ssh -------------------------------


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
