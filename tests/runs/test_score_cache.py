"""Scores are reused for the same network, images and method, and for nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairdeploy.runs.run import open_run
from fairdeploy.runs.stages import loading
from fairdeploy.runs.stages.plan import score
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.run import resolve_shrink

NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 4)
        self.register_buffer("scale", torch.tensor(1.5), persistent=False)

    def forward(self, x, y=None):
        x = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        h = self.norm(x)
        x = (x + self.attention(h, h, h, need_weights=False)[0]).mean(1) * self.scale
        if y is not None:
            x = x + y
        return self.head(x), x
"""
COUNT = 40
Change = Callable[["Project"], None]


@dataclass
class Project:
    """A folder with everything that a run reads, and the options."""

    folder: Path
    options: dict[str, Any] = field(default_factory=lambda: {
        "arch": "net.py:Net", "input_shape": (3, 6, 6), "data": "data.npz",
        "mean": (0.5,) * 3, "std": (0.5,) * 3, "num_calibration": 24,
    })  # fmt: skip

    def write(self) -> None:
        """As it is before any change."""
        (self.folder / "net.py").write_text(NETWORK)
        scope: dict[str, Any] = {}
        exec(NETWORK, scope)
        torch.manual_seed(0)
        torch.save(scope["Net"]().state_dict(), self.folder / "net.pt")
        random = np.random.default_rng(0)
        self.save_data(random.random((COUNT, 3, 6, 6), dtype=np.float32), np.arange(COUNT) % 4)

    def save_data(self, images: Any, labels: Any, **others: Any) -> None:
        """Write the images; no labels if they are None."""
        if labels is not None:
            others["labels"] = labels
        np.savez(self.folder / "data.npz", images=images, **others)

    @property
    def data(self) -> Any:
        """What was written."""
        return dict(np.load(self.folder / "data.npz"))

    def in_code(self, old: str, new: str) -> None:
        """Change the network's code."""
        path = self.folder / "net.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def is_scored_anew(self, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Run up to the scores; whether they were computed."""
        calls: list[object] = []
        plain = score_units

        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments)
            return plain(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr("fairdeploy.runs.stages.plan.score_units", counted)
            # These labels are noise, which would be found out and dropped.
            patch.setattr(
                "fairdeploy.tasks.classification.check_original", lambda data, *_, **__: data
            )
            settings = resolve_shrink(
                ShrinkOptions(model="net.pt", budgets=("60%",), output=Path("out"), **self.options)
            )
            with open_run(settings) as run:
                model = loading.load_network(settings.model, run.watch)
                graph = loading.capture_network(model, settings.model, run.watch)
                score(run, graph, loading.load_images(run, model, graph)[0])
        return bool(calls)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was scored once, with its cache."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FAIRDEPLOY_CACHE", str(folder / "cache"))
        made = Project(folder)
        made.write()
        assert made.is_scored_anew(patch)
    return folder


@pytest.fixture
def project(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy that may change."""
    folder = tmp_path / "project"
    shutil.copytree(scored, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(folder / "cache"))
    return Project(folder)


def option(**options: Any) -> Change:
    return lambda project: project.options.update(options)


def code(old: str, new: str) -> Change:
    return lambda project: project.in_code(old, new)


def _other_weight(project: Project) -> None:
    weights = torch.load(project.folder / "net.pt")
    weights["head.bias"][0] += 1e-6
    torch.save(weights, project.folder / "net.pt")


def _other_pixel(project: Project) -> None:
    data = project.data
    data["images"] += np.float32(1e-6)
    project.save_data(**data)


def _other_label(project: Project) -> None:
    data = project.data
    data["labels"] = (data["labels"] + 1) % 4
    project.save_data(**data)


def _no_labels(project: Project) -> None:
    project.save_data(project.data["images"], None)


CHANGES: dict[str, Change] = {
    "another activation": code("F.relu", "F.gelu"),
    "another number": code("* self.scale", "* self.scale * 2"),
    "another order of axes": code(".transpose(1, 2)", ".flip(1).transpose(1, 2)"),
    "a buffer outside of the state dict": code("tensor(1.5)", "tensor(2.5)"),
    "weights": _other_weight,
    "pixels": _other_pixel,
    "labels": _other_label,
    "no labels": _no_labels,
    "mean": option(mean=(0.4, 0.5, 0.5)),
    "std": option(std=(0.4, 0.5, 0.5)),
    "seed": option(seed=5),
    "number of images": option(num_calibration=25),
    "signal": option(signal="l1"),
    "protection": option(protect="l2"),
    "main output": option(main_output="output_1"),
    "attention": option(attention="channels"),
    "norm-coupled": option(allow_norm_coupled=True),
    "blocks": option(blocks=True),
    "fixed batch": option(fixed_batch=4),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_may_change_a_score_is_scored_anew(
    change: Change, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(project)
    assert project.is_scored_anew(monkeypatch)


SAME: dict[str, Change] = {
    "nothing": lambda _: None,
    "a restriction": option(exclude=("conv",)),
    "an allocation rule": option(allocation="uniform"),
    "a comment in the code": code("F.relu", "  F.relu"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_what_changes_no_score_uses_them_again(
    change: Change, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(project)
    assert not project.is_scored_anew(monkeypatch)


def test_labels_count_where_another_input_is_filled_with_noise(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.options["inputs"] = ("x:3,6,6", "y:12")
    assert project.is_scored_anew(monkeypatch)
    _other_label(project)
    assert project.is_scored_anew(monkeypatch)


def test_another_version_of_torch_scores_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert project.is_scored_anew(monkeypatch)
