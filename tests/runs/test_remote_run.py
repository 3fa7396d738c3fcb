"""A whole run whose races and operator times come from another machine, by a real ssh."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fairdeploy.records.deployment import HostOptions
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy_onnx import OnnxExporter
from tests.deployment.loopback_ssh import LoopbackServer
from tests.runs.test_timed_run import TARGET
from tests.tiny_project import write_project

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client here")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    running = LoopbackServer(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def document(server: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run whose operators are timed on the device too."""
    folder = tmp_path_factory.mktemp("remote")
    write_project(folder)
    (folder / "quick.toml").write_text(TARGET)

    def not_here(*_: object, **__: object) -> None:
        raise AssertionError("operators were timed on this machine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(OnnxExporter, "operator_times", not_here)
        result = shrink(
            ShrinkOptions(
                model=str(folder / "model.pt"), budgets=("macs=70%",), output=folder / "out",
                target=str(folder / "quick.toml"), recover="none",
                host=HostOptions(
                    host="127.0.0.1", port=server.port, python=sys.executable,
                    ssh_options=server.ssh_options,
                ),
            )
        )  # fmt: skip
    return dict(result.document)


def test_operators_are_timed_on_the_device_and_known_by_their_modules(
    document: dict[str, Any],
) -> None:
    rows = [row for row in document["operators"]["by_operator"] if row["op"] == "conv2d"]
    assert rows
    assert all(row["module"] and row["original_ms"] > 0 for row in rows)


def test_report_says_why_the_device_is_not_faster(document: dict[str, Any]) -> None:
    assert document["why_not_faster"]["promised_speedup"] > 1
    assert not [text for text in document["warnings"] if "operators were not timed" in text]


def test_nothing_is_left_on_the_device(document: dict[str, Any], server: LoopbackServer) -> None:
    assert sum("--json" in command for command in server.commands) >= 2 + 1 + 2
    assert server.remote_folders() == []
