"""Runs commands on another machine through the system's ``ssh``, and nothing else."""

from __future__ import annotations

import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from fairdeploy.errors import DeviceLostError, MeasurementError

_SSH_FAILED = 255
"""What ``ssh`` itself exits with; other codes are the remote command's."""
_NOT_FOUND = 127
_ALIVE_SECONDS = 5
_ALIVE_TRIES = 3

Content = bytes | Path


@dataclass(frozen=True, slots=True)
class SshHost:
    """A machine that ``ssh`` reaches without asking for a password."""

    host: str
    """``user@device``, or a name from the user's ssh configuration."""
    port: int | None = None
    python: str = "python3"
    options: tuple[str, ...] = ()
    """More arguments for ``ssh``: ``("-i", "key")``."""
    connect_timeout_s: float = 10.0

    def unpack(self, files: Mapping[str, Content], *, timeout_s: float, first: str = "") -> str:
        """Lay ``files`` by relative path into the folder that the shell is in; what it printed.

        Args:
            first: Shell commands before that; they choose the folder.
        """
        code = (
            "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('.')"
        )
        with tempfile.TemporaryFile() as stream:
            _write_tar(stream, files)
            stream.seek(0)
            command = f"{first}{shlex.quote(self.python)} -c {shlex.quote(code)}"
            return self.run(command, timeout_s=timeout_s, stdin=stream)

    def run(self, command: str, *, timeout_s: float, stdin: IO[bytes] | None = None) -> str:
        """Run ``command`` in the remote machine's POSIX shell; what it printed.

        Raises:
            DeviceLostError: The machine does not answer (any more), or not in time.
            MeasurementError: There is no ``ssh`` here, or the command failed there; the message
                is the last line that it wrote.
        """
        arguments = [*self._ssh(), f"exec sh -c {shlex.quote(command)}"]
        try:
            done = subprocess.run(
                arguments,
                stdin=stdin if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise MeasurementError(
                "no 'ssh' on this machine; install the OpenSSH client, or use fairdeploy bundle "
                "and carry the folder to the device"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DeviceLostError(
                f"'{self.host}' has not answered for {timeout_s:g} s; check the device and the "
                "network"
            ) from error
        said = _last_line(done.stderr)
        if done.returncode == _SSH_FAILED:
            raise DeviceLostError(f"'{self.host}' does not answer: {said or 'ssh failed'}")
        if done.returncode == _NOT_FOUND:
            raise MeasurementError(
                f"no '{self.python}' on '{self.host}'; install Python there, or name the one that "
                "is there with --remote-python"
            )
        if done.returncode != 0:
            raise MeasurementError(f"'{self.host}': {said.removeprefix('error: ')}")
        return done.stdout.decode("utf-8", "replace")

    def _ssh(self) -> list[str]:
        port = ["-p", str(self.port)] if self.port is not None else []
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": f"{self.connect_timeout_s:.0f}",
            "ServerAliveInterval": str(_ALIVE_SECONDS),
            "ServerAliveCountMax": str(_ALIVE_TRIES),
            "LogLevel": "ERROR",
        }
        ours = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        # The first value of an option counts for ssh, so the user's come first; `--` ends them, so
        # that no host name can be one.
        return ["ssh", "-T", *port, *self.options, *ours, "--", self.host]


def _write_tar(stream: IO[bytes], files: Mapping[str, Content]) -> None:
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, BytesIO(content))
            else:
                info.size = content.stat().st_size
                with content.open("rb") as file:
                    archive.addfile(info, file)


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]
