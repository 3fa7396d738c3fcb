"""Class names from strangers' data reach pages, cards and scripts as text, and never run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.cli import app as cli
from tests.tiny_project import write_project

CANARY = "executed"
NAMES = (
    f"<script>open('{CANARY}','w')</script>",
    f"{{{{ cycler.__init__.__globals__.os.mknod('{CANARY}') }}}}",
    f"\"); open('{CANARY}', 'w') #",
    f"`; touch {CANARY}`$(touch {CANARY})\x1b]0;x\x07",
    "| a | b |\n# heading\n[x](javascript:alert(1)) \u202e \ud800",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result whose images came with these names."""
    path = tmp_path_factory.mktemp("project")
    write_project(path)
    arrays = dict(np.load(path / "images.npz"))
    np.savez(path / "images.npz", class_names=np.array(NAMES), **arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert cli.run(["shrink", "model.pt", "-b", "70%", "--no-latency", "-o", "out"]) == 0
        assert cli.run(["verify", "out"]) == 0
    return path


def test_nothing_ran(folder: Path) -> None:
    assert list(folder.rglob(CANARY)) == []


def test_the_page_and_the_card_hold_them_as_text(folder: Path) -> None:
    page = (folder / "out/report.html").read_text(encoding="utf-8")
    card = (folder / "out/MODEL_CARD.md").read_text(encoding="utf-8")
    for tag in ("<script>open", "](javascript:alert", "\n# heading"):
        assert tag not in page
        assert tag not in card
    assert "&lt;script&gt;open(" in page


def test_the_script_prints_a_name_and_runs_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.chdir(folder)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save("image.png")
    monkeypatch.setattr(sys, "argv", ["run.py", "image.png"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("out/run.py", run_name="__main__")
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "image.png" in shown
    assert "\x1b" not in shown
    assert not (folder / CANARY).exists()
