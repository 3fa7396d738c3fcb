"""A whole run with --allow-norm-coupled says everywhere that it is not exact, and comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import fairdeploy
from fairdeploy.cli import app as cli
from fairdeploy.cli.summaries.shrink import shrink_summary
from fairdeploy.runs import inspect as inspection
from fairdeploy.runs.shrink import ShrinkResult, shrink
from fairdeploy.settings.options import InspectOptions, ShrinkOptions
from tests.layer_normed import Transformer
from tests.random_networks import randomise

FACTORY = "from tests.layer_normed import Transformer\n\ndef build():\n    return Transformer()\n"


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    torch.save(randomise(Transformer(), seed=1).state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(48) % 4)
    (folder / "fairdeploy.toml").write_text(
        'arch = "arch.py:build"\ninput_size = 8\ndata = "images.npz"\nnum_calibration = 24\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    return folder


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ShrinkResult:
    output = tmp_path_factory.mktemp("results") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return shrink(
            ShrinkOptions(
                model=str(project / "model.pt"), output=output, budgets=("25%",),
                with_latency=False, allow_norm_coupled=True,
            )
        )  # fmt: skip


def test_report_states_the_measured_difference_beside_the_proof(finished: ShrinkResult) -> None:
    document = json.loads((finished.output / "report.json").read_text())
    proof = document["proof"]
    assert proof["passed"]
    assert proof["num_coupled_norms"] == 3
    assert 1e-3 < proof["norm_coupled_difference"] < 10
    stem = next(row for row in document["groups"] if row["name"] == "patches")
    assert stem["kept"] < stem["units"] == 8
    text = (finished.output / "report.html").read_text()
    assert "3 layer norms take their statistics over fewer channels" in text
    assert "the removal is proved exact, layer norms apart" in text
    assert "Not exact" in text


def test_summary_states_that_it_is_not_exact(finished: ShrinkResult) -> None:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shrink_summary(finished.document, finished.output))
    text = " ".join(console.export_text().split())
    difference = finished.document["proof"]["norm_coupled_difference"]
    assert "not exact 3 layer norms take their statistics over fewer channels" in text
    assert f"differ by {difference:.1e} of the largest output" in text


def test_shrunk_network_comes_back_from_its_folder_and_the_original(finished: ShrinkResult) -> None:
    assert json.loads((finished.output / "plan.json").read_text())["allow_norm_coupled"] is True
    again = fairdeploy.load(finished.output, Transformer())
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(images), fairdeploy.load(finished.output)(images))


def test_inspect_shows_the_width_as_removable_only_with_the_option(project: Path) -> None:
    def names(allowed: bool) -> set[str]:
        options = InspectOptions(model=str(project / "model.pt"), allow_norm_coupled=allowed)
        return {row["name"] for row in inspection.inspect(options)["groups"]}

    assert names(True) - names(False) == {"patches"}


def test_project_file_and_command_line_can_allow_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(project / "model.pt")
    assert cli.run(["inspect", model, "--allow-norm-coupled", "--json"]) == 0
    assert '"patches"' in capsys.readouterr().out.split('"frozen"')[0]
    text = (project / "fairdeploy.toml").read_text()
    (project / "fairdeploy.toml").write_text(text + "allow_norm_coupled = 1\n")
    assert cli.run(["inspect", model]) == 1
    assert "allow_norm_coupled" in (error := capsys.readouterr().err)
    assert "true or false" in error
