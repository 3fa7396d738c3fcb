"""A real ssh server on this machine, for the system's ssh client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import asyncssh


class LoopbackServer:
    """Runs what clients ask for in a shell, in an environment that the test decides."""

    def __init__(self, folder: Path) -> None:
        self.commands: list[str] = []
        """Everything that clients have asked for."""
        self.num_bytes_received = 0
        self.environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        self._scratch = folder / "tmp"
        self._key = folder / "client_key"
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self._key)
        self._key.chmod(0o600)
        (folder / "authorized").write_bytes(key.export_public_key())
        self._authorized = str(folder / "authorized")
        self._loop = asyncio.new_event_loop()
        self._children: list[asyncio.subprocess.Process] = []
        self._connections: list[Any] = []
        self._num_open = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = self._do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """Arguments with which ``ssh`` gets in and remembers nothing."""
        return (
            "-F", "none", "-i", str(self._key), "-o", "IdentitiesOnly=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        )  # fmt: skip

    def remote_folders(self) -> list[Path]:
        """What our sessions have left, or have open."""
        return sorted(self._scratch.glob("fairdeploy.*"))

    def die(self) -> None:
        """Cut all connections and stop listening, as a board that loses power."""
        self._do(self._cut())

    def close(self) -> None:
        """End the server and its thread; may be called after ``die``."""
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _listen(self) -> Any:
        connections = self._connections

        class Remember(asyncssh.SSHServer):
            def connection_made(self, connection: Any) -> None:
                connections.append(connection)

        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Remember,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=self._authorized, process_factory=self._serve, encoding=None,
        )  # fmt: skip

    async def _cut(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.abort()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        while self._num_open:
            await asyncio.sleep(0.01)

    async def _serve(self, process: Any) -> None:
        self.commands.append(process.command)
        self._num_open += 1
        try:
            await self._answer(process)
        finally:
            self._num_open -= 1

    async def _answer(self, process: Any) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command, env=self.environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._children.append(child)
        sent = await process.stdin.read()
        self.num_bytes_received += len(sent)
        out, errors = await child.communicate(sent)
        with contextlib.suppress(OSError):  # the connection may be cut by now
            process.stdout.write(out)
            process.stderr.write(errors)
            process.exit(child.returncode or 0)
