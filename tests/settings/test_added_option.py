"""An option is added in one file: where its field is. What uses it is the second."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairdeploy

FIELD = """    patience: int | None = option(
        "Epochs without a gain before training ends.", whole_number(1, 9), default=3
    )
"""
RESOLVE = """
import json
from types import SimpleNamespace
from fairdeploy.cli import app
from fairdeploy.runs import shrink as run
from fairdeploy.settings.run import resolve_shrink

def shown(options, progress):
    print("patience", resolve_shrink(options).asked.patience)
    return SimpleNamespace(document={})

run.shrink = shown
for words in json.loads(sys.argv[1]):
    app.run(["shrink", "-b", "50%", *words])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with the field, beside a project."""
    folder = tmp_path_factory.mktemp("copy")
    package = Path(fairdeploy.__file__).parent
    shutil.copytree(package, folder / "fairdeploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.parent / "profiles", folder / "profiles")
    (folder / "pyproject.toml").touch()
    for name, text in (("plain", ""), ("five", "patience = 5"), ("wrong", "patience = 0")):
        (folder / name).mkdir()
        (folder / name / "net.pt").touch()
        (folder / name / "fairdeploy.toml").write_text(text)
    options = folder / "fairdeploy" / "settings" / "options.py"
    before = "    host: HostOptions | None = None\n"
    text = options.read_text(encoding="utf-8")
    assert text.count(before) == 2
    options.write_text(text.replace(before, FIELD + before, 1), encoding="utf-8")
    return folder


def said(folder: Path, code: str, *words: str) -> str:
    """What a program prints that runs with the copy."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{code}", *words]
    found = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )  # fmt: skip
    return found.stdout


def test_the_help_and_the_schema_have_it(folder: Path) -> None:
    run = "from fairdeploy.cli.app import run; run(sys.argv[1:])"
    assert "--patience" in said(folder, run, "shrink", "--help")
    assert json.loads(said(folder, run, "schema", "project"))["properties"]["patience"] == {
        "description": "Epochs without a gain before training ends.",
        "type": "integer", "minimum": 1, "maximum": 9, "default": 3,
    }  # fmt: skip


def test_it_is_typed_written_or_has_its_default(folder: Path) -> None:
    cases = [
        ["plain/net.pt"], ["five/net.pt"], ["five/net.pt", "--patience", "7"],
        ["plain/net.pt", "--patience", "10"], ["wrong/net.pt"],
    ]  # fmt: skip
    default, written, typed, typed_wrong, written_wrong = said(
        folder, RESOLVE, json.dumps(cases)
    ).splitlines()
    assert (default, written, typed) == ("patience 3", "patience 5", "patience 7")
    assert typed_wrong.startswith("error: invalid value for '--patience': ")
    assert written_wrong.endswith("is 0; give a whole number from 1 to 9")
