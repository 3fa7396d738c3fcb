"""No exported program runs code or takes memory it does not hold, whichever door it comes in by."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

import fairdeploy
from fairdeploy.cli.app import run
from fairdeploy.errors import FairdeployError
from fairdeploy.inputs.exported_program_safety import is_plain_size
from fairdeploy.inputs.model_loading import load_model
from tests.security.hostile_programs import EDITS, honest_program, hostile_program
from tests.security.pickle_programs import CANARY


@pytest.fixture(scope="module")
def honest() -> bytes:
    """The archive that all others are made of."""
    return honest_program()


@pytest.fixture(autouse=True)
def _beside_a_module_that_must_not_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(f"open('{CANARY}', 'w').close()\nclass X: A = 1\nx = int\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_honest_program_loads(honest: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(honest)
    assert load_model("model.pt2").preprocessing.shape == (3, 8, 8)


@pytest.mark.parametrize("label", ["size that is code", "sample inputs"])
def test_the_same_attack_runs_when_it_is_trusted(label: str, honest: bytes, tmp_path: Path) -> None:
    # Else the tests below would pass on attacks that never work.
    (tmp_path / "model.pt2").write_bytes(hostile_program(honest, label))
    with contextlib.suppress(FairdeployError):
        load_model("model.pt2", trust_pickle=True)
    assert Path(CANARY).exists()


@pytest.mark.parametrize("label", EDITS)
def test_hostile_program_is_refused_in_one_line(label: str, honest: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(hostile_program(honest, label))
    with pytest.raises(FairdeployError) as caught:
        fairdeploy.load(tmp_path)
    assert not Path(CANARY).exists()
    assert "evil" not in sys.modules
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("label", sorted(EDITS)[::15])
def test_command_line_refuses_it_in_one_line(
    label: str, honest: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pt2").write_bytes(hostile_program(honest, label))
    assert run(["inspect", "model.pt2", "--prove"]) in (1, 2)
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not Path(CANARY).exists()


@pytest.mark.parametrize(
    "size",
    ["s0", "2*s77 + 1", "Symbol('s0', positive=True, integer=True)", "(s0 - 1)//2", "Mod(s0, 2)",
     "s0**2", "Pow(Symbol('u3'), Integer(2))", "Max(1, s0)", "-s0", "3.5*s0"],
)  # fmt: skip
def test_sizes_as_exports_have_them_pass(size: str) -> None:
    assert is_plain_size(size)
