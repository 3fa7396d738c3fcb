"""What scripts read does not change unawares: the keys of every JSON file, and a whole plan.

After a change that is meant, ``python -m tests.golden.test_golden`` writes the files anew; the
difference belongs into the same commit, and into CHANGELOG.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.settings.target_profiles import load_profile, profile_toml
from tests.tiny_project import write_project

FOLDER = Path(__file__).parent
_MACHINE = dict.fromkeys(("device", "environment", "packages"), "facts of the machine")
_RACE = ("--target", "short.toml")


def tree(value: object) -> object:
    """Keys alone; of a list those of each different item."""
    if isinstance(value, Mapping):
        return {key: _MACHINE.get(key) or tree(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [json.loads(text) for text in sorted({json.dumps(tree(item)) for item in value})]
    return "value"


def made(folder: Path) -> dict[str, object]:
    """Every document, from the command line in ``folder``."""
    write_project(folder)
    # The fastest race there is; its figures are not looked at.
    target = replace(load_profile("cpu-1thread"), max_seconds=0.2, warmup_seconds=0.0, min_pairs=20)
    (folder / "short.toml").write_text(profile_toml(replace(target, channel_multiple=1)))
    before = Path.cwd()
    os.chdir(folder)
    try:
        _run("shrink", "model.pt", "-b", "60%", "--seed", "0", *_RACE, "-o", "out", "--quiet")
        _run("sweep", "model.pt", "--points", "2", "--no-latency", "-o", "swept", "--quiet")
        printed = {
            "inspect": _run("inspect", "model.pt", "--prove", "--json"),
            "measure": _run("measure", "out/model.onnx", *_RACE, "--json"),
        }
        files = {
            "report": Path("out/report.json"),
            "sweep": Path("swept/sweep.json"),
            "manifest": Path("out/manifest.json"),
        }
        texts = printed | {name: path.read_text() for name, path in files.items()}
        documents: dict[str, object] = {name: tree(json.loads(t)) for name, t in texts.items()}
        plan = json.loads(Path("out/plan.json").read_text())
        plan["model"]["sha256"] = "of weights whose last digits depend on the processor"
        return documents | {"plan": plan}
    finally:
        os.chdir(before)


def _run(*words: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert cli.run(list(words)) == 0, words
    return shown.getvalue()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return made(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("name", ["report", "sweep", "inspect", "measure", "manifest"])
def test_the_keys_stay(documents: dict[str, object], name: str) -> None:
    assert documents[name] == json.loads((FOLDER / f"{name}.json").read_text())


def test_the_plan_stays(documents: dict[str, object]) -> None:
    expected = (FOLDER / "plan.json").read_text()
    assert documents["plan"] == json.loads(expected)
    assert json.dumps(documents["plan"], indent=1) + "\n" == expected  # the order of keys too


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, document in made(Path(scratch)).items():
            text = json.dumps(document, indent=1) + "\n"
            (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
