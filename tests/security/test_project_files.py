"""A project file that merely lies beside a model runs nothing; the user's own runs as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fairdeploy.cli import app as cli
from fairdeploy.errors import ProjectFileError
from fairdeploy.settings.project_file import refuse_foreign_code

_PLANT = "import pathlib\npathlib.Path({canary!r}).touch()\n"
_CODE = _PLANT + "import torch\ndef build(**_): return torch.nn.Sequential(\n" + (
    "    torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3),\n"
    "    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))\n"
    "def images(): raise ValueError('no images')\n"
)  # fmt: skip


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """A stranger's folder with weights and code that tells when it runs."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    names: dict[str, object] = {}
    code = _CODE.format(canary=str(tmp_path / "RAN"))
    (folder / "evil.py").write_text(code)
    for shadow in ("timm", "torchvision", "PIL"):
        (folder / f"{shadow}.py").write_text(code)
    exec(code.split("\n", 2)[2], names)
    torch.save(names["build"]().state_dict(), folder / "m.pt")  # type: ignore[operator]
    np.savez(folder / "images.npz", images=np.zeros((8, 16, 16, 3), np.uint8))
    return folder


@pytest.fixture(autouse=True)
def _as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairdeploy.settings.run.refuse_foreign_code", refuse_foreign_code)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ('arch = "evil.py:build"', ("inspect",)),
        ('arch = " ../downloaded/evil.py:build"', ("sweep",)),
        ('task = "evil.py:build"', ("shrink", "--arch", "timm:test_resnet", "--budget", "50%")),
        ('arch = "evil.py:build"\ndata = "evil.py:images"', ("shrink", "--arch", "timm:resnet18")),
    ],
)
def test_project_file_elsewhere_that_names_code_needs_consent(
    downloaded: Path,
    line: str,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (downloaded / "fairdeploy.toml").write_text(f'{line}\nbudget = "50%"\ninput_size = 16\n')
    monkeypatch.chdir(downloaded.parent)
    assert cli.run([command[0], "downloaded/m.pt", *command[1:]]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "'downloaded/fairdeploy.toml' is not in the current folder and names code" in error
    assert "--trust-project" in error
    assert not (downloaded.parent / "RAN").exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("..", ("downloaded/m.pt", "--trust-project")),
        (".", ("m.pt",)),
        (".", ("../downloaded/m.pt",)),
    ],
)
def test_consent_and_the_folder_itself_let_the_code_run(
    downloaded: Path, place: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (downloaded / "fairdeploy.toml").write_text('arch = "evil.py:build"\ninput_size = 16\n')
    monkeypatch.chdir(downloaded / place)
    assert cli.run(["inspect", "--json", *words]) == 0
    assert (downloaded.parent / "RAN").exists()


def test_modules_beside_a_model_never_stand_in_for_installed_ones(downloaded: Path) -> None:
    (downloaded / "fairdeploy.toml").write_text('arch = "timm:test_resnet"\ninput_size = 16\n')
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), downloaded / "w.pt")
    words = ["inspect", "downloaded/w.pt", "--trust-pickle", "--input-size", "3,2,2"]
    # As an installed program, which does not import from the working folder.
    code = (
        "import sys; sys.path[:] = sys.path[1:]; from fairdeploy.cli.app import run;"
        f"assert run({words}) == 0; assert run(['inspect', 'downloaded/m.pt']) == 1"
    )
    subprocess.run([sys.executable, "-c", code], cwd=downloaded.parent, check=True)
    assert not (downloaded.parent / "RAN").exists()


@pytest.mark.parametrize(
    "arch",
    ["os:system,command='id'", "evil:build", "timm:resnet18,checkpoint_path=evil.pth",
     "timm:resnet18,pretrained=true,pretrained_cfg_overlay={'url': 'http://x'}"],
)  # fmt: skip
def test_every_architecture_that_ends_in_running_code_counts(tmp_path: Path, arch: str) -> None:
    with pytest.raises(ProjectFileError, match="--trust-project"):
        refuse_foreign_code(tmp_path / "fairdeploy.toml", {"arch": arch})


def test_plain_values_elsewhere_are_used(tmp_path: Path) -> None:
    plain = "timm:deit_tiny_patch16_224,img_size=32,depths=(2,2),pretrained=true"
    refuse_foreign_code(tmp_path / "fairdeploy.toml", {"arch": plain, "data": str(tmp_path)})
    refuse_foreign_code(tmp_path / "fairdeploy.toml", {"arch": None, "data": None})


def test_links_count_as_lying_where_they_point_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "fairdeploy.toml").write_text("")
    (here / "fairdeploy.toml").symlink_to(there / "fairdeploy.toml")
    (tmp_path / "alias").symlink_to(here)
    monkeypatch.chdir(here)
    code = {"arch": "net.py:build"}
    with pytest.raises(ProjectFileError, match="is not in the current folder"):
        refuse_foreign_code(here / "fairdeploy.toml", code)
    (here / "fairdeploy.toml").unlink()
    (here / "fairdeploy.toml").write_text("")
    refuse_foreign_code(Path("fairdeploy.toml"), code)
    refuse_foreign_code(tmp_path / "alias" / "fairdeploy.toml", code)
    refuse_foreign_code(there / ".." / "here" / "fairdeploy.toml", code)
