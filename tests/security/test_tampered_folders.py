"""A result folder that somebody changed gives one line or works; it never ends as a bug of ours."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.errors import FairdeployError, OutputError, PlanError
from fairdeploy.reporting.model_card import model_card
from fairdeploy.runs.folder.artifact_folder import open_folder
from fairdeploy.runs.folder.manifest import read_manifest, write_manifest
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.surgery.plan import read_plan
from tests.tiny_project import write_project

WRONG: tuple[Any, ...] = (None, "x", -1, 10**40, float("nan"), float("inf"), [], {}, [[]], True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    options = ShrinkOptions(
        model=str(folder / "model.pt"), output=folder / "out", budgets=("60%",), with_latency=False
    )
    return shrink(options).output


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "out"))


def changed_trees(tree: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Copies without one key, or with a wrong value in its place; of lists the first item only."""

    def places(inner: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for key, value in inner.items() if isinstance(inner, dict) else enumerate(inner[:1]):
            yield (*place, key)
            if isinstance(value, dict | list):
                yield from places(value, (*place, key))

    for number, place in enumerate(places(tree, ())):
        for value in (KeyError, WRONG[number % len(WRONG)], WRONG[(number + 3) % len(WRONG)]):
            changed = copy.deepcopy(tree)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            if value is KeyError:
                del inner[place[-1]]
            else:
                inner[place[-1]] = value
            yield (*place, value), changed


def test_every_change_of_the_report_opens_or_is_one_error(folder: Path) -> None:
    path = folder / "report.json"
    whole = json.loads(path.read_text())
    refused = []
    for _, changed in changed_trees(whole):
        path.write_text(json.dumps(changed))
        try:
            model_card(open_folder(folder).document)
        except FairdeployError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in text for text in refused)


def test_every_change_of_the_plan_reads_or_is_one_error(folder: Path) -> None:
    path = folder / "plan.json"
    whole = json.loads(path.read_text())
    for _, changed in changed_trees(whole):
        path.write_text(json.dumps(changed))
        with contextlib.suppress(PlanError):
            read_plan(path)


def test_every_change_of_the_manifest_reads_or_is_one_error(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    for _, changed in changed_trees(whole):
        path.write_text(json.dumps(changed))
        with contextlib.suppress(OutputError):
            read_manifest(folder)


@pytest.mark.parametrize("name", ["report.json", "plan.json", "manifest.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "\x00", "", "1" * 10_000, "[1,"])
def test_nonsense_is_one_line(
    folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(text)
    if name != "manifest.json":
        write_manifest(folder)
    for command in ("verify", "export"):
        if (command, name) != ("export", "manifest.json"):
            assert cli.run([command, str(folder)]) == 1
            assert "a bug in fairdeploy" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "a/../../secret", "a\nb"])
def test_manifest_that_lists_what_lies_elsewhere_is_refused(
    folder: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][0]["path"] = path
    lines = "".join(f"{f['sha256']} {f['size_bytes']} {f['path']}\n" for f in document["files"])
    document["digest"] = hashlib.sha256(lines.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))
    assert cli.run(["verify", str(folder)]) == 1
    assert "does not lie in the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fairdeploy.main_output", "7"),
        ("fairdeploy.main_output", "-1"),
        ("fairdeploy.preprocessing", '{"channels": 1e400}'),
        ("fairdeploy.preprocessing", "[" * 50_000),
    ],
)
def test_metadata_that_cannot_be_is_one_line(
    folder: Path, key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((folder / "report.json").read_text())
    document["file_metadata"][key] = value
    (folder / "report.json").write_text(json.dumps(document))
    write_manifest(folder)
    assert cli.run(["export", str(folder), "--precision", "fp16", "--max-test", "8"]) == 1
    assert "a bug in fairdeploy" not in capsys.readouterr().err


def test_report_that_names_code_runs_it_with_consent_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'RAN')!r}).touch()\ndef images(): 1 / 0\n"
    )
    document = json.loads((folder / "report.json").read_text())
    document["data"]["source"] = f"{tmp_path / 'evil.py'}:images"
    (folder / "report.json").write_text(json.dumps(document))
    words = ["export", str(folder), "--precision", "fp16"]
    assert cli.run(words) == 1
    assert "add --trust-project" in capsys.readouterr().err
    assert not (tmp_path / "RAN").exists()
    assert cli.run([*words, "--trust-project"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "RAN").exists()
