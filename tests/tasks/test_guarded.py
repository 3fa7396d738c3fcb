"""A task of the user's own: named on the command line, used, and one line where it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.cli import app as cli
from fairdeploy.errors import ProjectFileError, UsageError
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.records.task_names import parse_task
from fairdeploy.settings.project_file import load_project_file, refuse_foreign_code
from fairdeploy.tasks import Resampled
from fairdeploy.tasks.guarded import guarded, tried

OWN = """
import torch
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.tasks import Resampled

class Ordinal(Resampled):
    words = TaskWords("ordinal", "closeness", "%", is_higher_better=True)
    def loss(self, answer, targets):
        return torch.nn.functional.cross_entropy(answer, targets, reduction="sum")
    def kept(self, answer):
        return answer.argmax(1)
    def marks_of_kept(self, answers, targets):
        return 1 - (answers - targets).abs().double() / 3

class Late(Ordinal):
    asked = 0
    def quality(self, answers, targets):
        Late.asked += 1
        if Late.asked > 1:
            raise ValueError("no figure\\nand a second line")
        return super().quality(answers, targets)

class Nan(Ordinal):
    def marks_of_kept(self, answers, targets):
        return (answers - targets).double() / 0

class Misfit(Ordinal):
    def loss(self, answer, targets):
        return (answer - targets).square().sum()

class Many(Ordinal):
    def loss(self, answer, targets):
        return answer.mean(1)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    program = torch.export.export(network(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(
        {0: torch.export.Dim("batch")},))  # fmt: skip
    torch.export.save(program, tmp_path / "net.pt2")
    rng = np.random.default_rng(0)
    images = rng.random((160, 3, 8, 8), dtype=np.float32)
    np.savez("data.npz", images=images, labels=rng.integers(0, 4, 160))
    return tmp_path


def shrink(task: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.run([
        "shrink", "net.pt2", "--data", "data.npz", "--budget", "60%", "--no-latency", "--force",
        "-o", "out", "--task", task, "--num-calibration", "64",
    ])  # fmt: skip
    found = capsys.readouterr()
    return code, found.out + found.err


def test_a_task_from_a_file_judges_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shrink("own.py:Ordinal", capsys)[0] == 0
    report = json.loads((folder / "out/report.json").read_text(encoding="utf-8"))
    assert report["task"]["name"] == "ordinal"
    assert 0 < report["accuracy"]["original"]["value"] < 1
    assert report["accuracy"]["exported"]["low"] <= report["accuracy"]["exported"]["value"]
    assert "closeness" in (folder / "out/report.html").read_text(encoding="utf-8")


def test_what_was_made_stays_where_a_task_fails_late(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = shrink("own.py:Late", capsys)
    assert code == 0
    assert "accuracy (pruned) is not measured: quality of task 'own.py:Late' fails on" in said
    assert (folder / "out/model.onnx").is_file()


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("Nan", "quality of task 'own.py:Nan' gives NaN or an infinite value"),
        ("Misfit", "loss of task 'own.py:Misfit' fails on [64, 4] and [64] with RuntimeError:"),
        ("Many", "loss of task 'own.py:Many' gives a tensor of shape [64]; give one number"),
        ("missing", "'own.py' has no 'missing'"),
        ("torch", "'own.py:torch' is a module; name a function or class"),
    ],
)
def test_a_task_that_does_not_fit_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], task: str, text: str
) -> None:
    code, said = shrink(f"own.py:{task}", capsys)
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert code in (1, 2)
    assert text in " ".join(said.split())
    assert len(lines) == 1
    assert not (folder / "out").exists()


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'a.py:f' returned a dict; it must return an object of"):
        guarded({}, "a.py:f")
    with pytest.raises(UsageError, match=r"no task 'ocr'; use one of cl.*file.py:fac"):
        parse_task("ocr")


class Own(Resampled):
    """The least that one writes."""

    words: ClassVar[TaskWords] = TaskWords("own", "hits", "%", is_higher_better=True)
    weight: ClassVar[float] = 1.0

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return self.weight * nn.functional.cross_entropy(answer, targets, reduction="sum")

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        return (answers.argmax(1) == targets).double()


class Weighted(Own):
    """The same with another loss."""

    weight: ClassVar[float] = 2.0


ANSWER, TARGETS = torch.eye(4).repeat(2, 1), torch.arange(8) % 4


def test_a_task_that_needs_labels_says_so() -> None:
    with pytest.raises(UsageError, match="--task own needs labels, and there are none"):
        tried(guarded(Own(), "own"), ANSWER, None)


def test_the_mean_of_the_marks_is_the_quality_where_nothing_else_is_said() -> None:
    task = tried(guarded(Own(), "own"), ANSWER, TARGETS)
    worse = ANSWER.clone()
    worse[:2] = worse[:2].flip(0)
    found = task.quality(task.kept(worse), TARGETS)
    assert found.value == pytest.approx(0.75)
    assert found.low < 0.75 < found.high
    difference = task.difference(task.kept(ANSWER), task.kept(worse), TARGETS)
    assert difference.value == pytest.approx(-0.25)
    assert difference.num_lost == 2


def test_scores_are_kept_apart_by_what_the_code_says() -> None:
    keys = [tried(guarded(t(), "own"), ANSWER, TARGETS).cache_key for t in (Own, Own, Weighted)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_a_stranger_s_project_file_names_no_task_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "fairdeploy.toml").write_text('task = "own.py:Ordinal"\n', encoding="utf-8")
    task = load_project_file(tmp_path).task
    assert task == f"{tmp_path.resolve() / 'own.py'}:Ordinal"
    with pytest.raises(ProjectFileError, match=r"names code to run: task = .*--trust-project"):
        refuse_foreign_code(tmp_path / "fairdeploy.toml", {"task": task})
    (tmp_path / "fairdeploy.toml").write_text('task = "ocr"\n', encoding="utf-8")
    with pytest.raises(ProjectFileError, match="one of classification"):
        load_project_file(tmp_path)
