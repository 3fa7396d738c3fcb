"""A result folder that somebody changed, manifest and all, ends in one line or does no harm."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli.app import run
from fairdeploy.errors import FairdeployError, OutputError
from fairdeploy.runs.export.run import export
from fairdeploy.runs.folder.artifact_folder import open_folder
from fairdeploy.runs.folder.manifest import MANIFEST_FILE, read_manifest, write_manifest
from fairdeploy.runs.folder.reload import load
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ExportOptions, ShrinkOptions
from tests.security.hostile_programs import hostile_program
from tests.security.pickle_programs import CANARY
from tests.tiny_project import write_project

_STRANGE: tuple[Any, ...] = (None, "x", "\ud800", -1, math.inf, 10**30, [], {}, [[]], True)
_NOT_JSON = {
    "nothing": b"",
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe",
    "a number": b"5",
    "a long number": b"9" * 100_000,
    "a pickle": b"\x80\x02cos\nsystem\n.",
    "cut": b'{"schema_version": 1, ',
}


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``shrink`` writes."""
    project = tmp_path_factory.mktemp("project")
    write_project(project)
    options = ShrinkOptions(
        model=str(project / "model.pt"), output=project / "out", budgets=("80%",),
        with_latency=False, command=("fairdeploy", "shrink", "model.pt"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        shrink(options)
    return project / "out"


@pytest.fixture
def folder(shrunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(shrunk, tmp_path / "out"))


def changes(document: Any, depth: int = 0) -> Iterator[tuple[str | int, ...]]:
    """Paths to everything in a document, down to the fourth level, one item of each list."""
    items = document.items() if isinstance(document, dict) else enumerate(document[:1])
    for key, value in items:
        yield (key,)
        if depth < 3 and isinstance(value, dict | list):
            yield from ((key, *rest) for rest in changes(value, depth + 1))


def changed(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The document with another value there."""
    result = copy.deepcopy(document)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


@pytest.mark.parametrize("name", ["report.json", "plan.json"])
@pytest.mark.parametrize("label", _NOT_JSON)
def test_document_that_is_none_is_refused(folder: Path, name: str, label: str) -> None:
    (folder / name).write_bytes(_NOT_JSON[label])
    with pytest.raises(FairdeployError) as caught:
        open_folder(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize("label", _NOT_JSON)
def test_manifest_that_is_none_is_refused(folder: Path, label: str) -> None:
    (folder / MANIFEST_FILE).write_bytes(_NOT_JSON[label])
    with pytest.raises(OutputError, match=MANIFEST_FILE):
        read_manifest(folder)


@pytest.mark.parametrize("first", range(2))
@pytest.mark.parametrize("name", ["report.json", "plan.json", MANIFEST_FILE])
def test_any_value_of_another_kind_is_refused_or_does_no_harm(
    folder: Path, name: str, first: int
) -> None:
    document = json.loads((folder / name).read_text())
    refused = 0
    for place, path in enumerate(changes(document)):
        strange = _STRANGE[(place + 5 * first) % len(_STRANGE)]
        text = json.dumps(changed(document, path, strange))
        (folder / name).write_text(text)
        try:
            read_manifest(folder)
            open_folder(folder)
        except FairdeployError:
            refused += 1
    assert refused > 3


def _without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _linked(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def _piped(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _a_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _strange(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x02cos\nsystem\n.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("change", [_without, _linked, _piped, _a_folder, _strange])
@pytest.mark.parametrize("name", ["model.pt2", "plan.json", "report.json", "model.onnx"])
def test_verify_and_export_refuse_what_is_no_file_of_theirs(
    folder: Path, name: str, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, name)
    assert run(["verify", "out"]) in (1, 4)
    told = capsys.readouterr()
    assert name in told.out + told.err
    assert "Traceback" not in told.out + told.err
    with pytest.raises(FairdeployError):
        export(ExportOptions(folder=folder, precisions=("fp16",)))
    assert not Path(CANARY).exists()


@pytest.mark.parametrize(
    "label", ["size that is code", "forward_arg_names 'x=print(1)'", "in_spec 0", "sample inputs"]
)
def test_network_that_would_run_is_refused_by_every_command(
    folder: Path, label: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = folder / "model.pt2"
    network.write_bytes(hostile_program(network.read_bytes(), label))
    write_manifest(folder)
    with pytest.raises(FairdeployError, match="not a plain exported program"):
        load(folder)
    for command in (
        ["verify", "out"],
        ["export", "out", "--precision", "fp16"],
        ["inspect", str(network)],
    ):
        assert run(command) != 0
        told = capsys.readouterr()
        assert "not a plain exported program" in told.out + told.err
    assert not Path(CANARY).exists()


def test_listed_path_that_leads_out_of_the_folder_is_no_file_of_it(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    with contextlib.suppress(OutputError):
        write_manifest(folder)
    document = json.loads((folder / MANIFEST_FILE).read_text())
    text = json.dumps(document).replace("plan.json", "../secret")
    (folder / MANIFEST_FILE).write_text(text)
    assert run(["verify", "out"]) != 0
