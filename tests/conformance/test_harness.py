"""The conformance command itself: limits, resuming, and laws that do notice what is broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conformance.image_response import MIN_RESPONSE, noise_gain, response
from tests.conformance.laws import Course
from tests.conformance.laws import _require_response as require_response
from tests.conformance.output_layers import output_layers
from tests.conformance.processes import CommandProcess, Limits, run_limited
from tests.conformance.random_weights import randomise
from tests.conformance.rows import Row, append_row, compact, read_rows
from tests.conformance.supervision import Task, pending, run_tasks
from tests.conformance.table import write_table
from tests.conformance.zoo import NORM_COUPLED, select, zoo

LIMITS = Limits(cpu_s=20.0, memory_mib=1000.0)


def _task(code: str, model: str = "m", fingerprint: str = "now") -> Task:
    def start(row_file: Path, log: Path) -> CommandProcess:
        return CommandProcess([sys.executable, "-c", code, str(row_file)], row_file.parent, log)

    return Task(model, "", fingerprint, start)


def _run(code: str, folder: Path, limits: Limits = LIMITS) -> Row:
    rows: list[Row] = []
    run_tasks([_task(code)], folder / "rows.jsonl", Row, limits=limits, jobs=1, on_row=rows.append)
    return rows[0]


def test_process_that_computes_too_long_is_a_row_with_its_stage_and_cause(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        'open(sys.argv[1], \'w\').write(\'{"model": "m", "stage": "capture"}\')\n'
        "while True: pass"
    )
    row = _run(code, tmp_path, Limits(cpu_s=0.5, memory_mib=1000.0))
    assert row.failure == "took more than 0 CPU seconds"
    assert row.failed_stage == "capture"
    assert not row.passed


def test_process_that_takes_too_much_memory_is_killed(tmp_path: Path) -> None:
    code = "import time; x = b'1' * 300_000_000; time.sleep(60)"
    outcome = run_limited(
        lambda: CommandProcess([sys.executable, "-c", code], tmp_path, tmp_path / "log"),
        Limits(cpu_s=20.0, memory_mib=100.0),
    )
    assert outcome.killed == "took more than 100 MiB"
    assert outcome.seconds < 60


def test_process_that_waits_for_ever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.conformance.processes.MAX_IDLE_S", 1.0)
    row = _run("import time; time.sleep(60)", tmp_path)
    assert row.failure.startswith("waited for 1 seconds after 0 CPU seconds")


def test_process_that_dies_is_a_row_with_its_last_words(tmp_path: Path) -> None:
    row = _run("import sys; sys.exit('no such thing')", tmp_path)
    assert row.failure == "exit status 1: no such thing"
    assert (row.model, row.fingerprint) == ("m", "now")


def test_models_with_a_row_of_the_same_code_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(Row("old", fingerprint="before"), path)
    append_row(Row("current", fingerprint="now"), path)
    tasks = [_task("", model) for model in ("old", "current", "new")]
    assert [task.model for task in pending(tasks, path, Row, again=False)] == ["old", "new"]
    assert len(pending(tasks, path, Row, again=True)) == 3


def test_newest_row_of_a_model_counts_and_survives_compacting(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for stage in ("capture", "done"):
        append_row(Row("m", stage=stage, input_shapes=((3, 8, 8),)), path)
    compact(path, Row)
    assert len(path.read_text().splitlines()) == 1
    assert read_rows(path, Row)[("", "m")].stage == "done"


def test_outputs_that_do_not_depend_on_the_image_break_a_law() -> None:
    head = nn.Linear(4 * 36, 2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), head)
    images = torch.randn(2, 3, 8, 8)
    course = Course(Row("m", stage="build"), lambda row: None)
    require_response(network, (images,), course)
    assert course.row.failure == ""
    with torch.no_grad():
        head.weight.zero_()
    require_response(network, (images,), course)
    assert course.row.failure.startswith("outputs hardly depend on the image")
    assert course.row.failed_stage == "build"


def test_randomised_norms_have_the_statistics_of_their_inputs() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
    images = 5 * torch.randn(4, 3, 8, 8)
    randomise(nn.Sequential(convolution, norm).eval(), (images,), seed=0)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    with torch.no_grad():
        inside = convolution(images)
    torch.testing.assert_close(norm.running_mean, inside.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, inside.var((0, 2, 3)).clamp_min(0.1))
    assert 0.5 <= float(norm.weight.detach().min()) < float(norm.weight.detach().max()) <= 1.0
    assert not norm.training
    assert norm.momentum == 0.1


def test_zero_head_and_tiny_layer_scale_are_drawn_anew() -> None:
    head, gamma = nn.Linear(8, 5), nn.Parameter(torch.full((8,), 1e-6))
    nn.init.zeros_(head.weight)
    network = nn.Sequential(nn.Linear(8, 8), head)
    network.register_parameter("gamma", gamma)
    randomise(network.eval(), (torch.randn(2, 8),), seed=0)
    assert head.weight.std() > 0.1
    assert 0.1 <= float(gamma.detach().min()) < float(gamma.detach().max()) <= 0.5


def faint(deviation: float) -> nn.Sequential:
    """Depthwise layers with weights of one size, each with a norm."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 1)]
    for _ in range(8):
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        nn.init.normal_(depthwise.weight, std=deviation)
        layers += [depthwise, nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 5)).eval()


def test_layers_are_scaled_where_the_image_would_not_get_through() -> None:
    images = torch.randn(2, 3, 8, 8)
    network = faint(0.01)
    randomise(network, (images,), seed=0)
    with torch.no_grad():
        inside = network[:2](images)
        assert response([network(images)]) >= MIN_RESPONSE
    bias = network[1].bias
    assert isinstance(bias, torch.Tensor)
    products = inside - bias.detach()[:, None, None]
    assert 0.5 < float(products.square().mean()) < 2.0


def test_layers_keep_their_weights_where_the_image_gets_through() -> None:
    network = faint(0.3)
    before = [parameter.detach().clone() for parameter in network[1].parameters()]
    randomise(network, (torch.randn(2, 3, 8, 8),), seed=0)
    for parameter, old in zip(network[1].parameters(), before, strict=True):
        assert torch.equal(parameter, old)


class Steep(nn.Module):
    """A wave that many periods of fit into the range of its input."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.steepness * x)


@pytest.mark.parametrize(("steepness", "is_halved"), [(2.0, False), (200.0, True)])
def test_norms_give_less_where_noise_would_grow(steepness: float, is_halved: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), norm, Steep(steepness)).eval()
    images = (torch.randn(2, 3, 8, 8),)
    randomise(network, images, seed=0)
    assert (float(norm.weight.detach().max()) <= 0.5) == is_halved
    assert noise_gain(network, images) <= 300


def test_layers_that_make_the_outputs_are_found_behind_adds_and_activations() -> None:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            return torch.sigmoid(self.left(x) + self.right(x))

    network = Twin()
    found = output_layers(network, (torch.randn(2, 8),))
    assert {id(layer) for layer in found} == {id(network.left), id(network.right)}


def test_table_says_what_is_proved_in_float64_and_where_norms_lose_channels(tmp_path: Path) -> None:
    row = Row(
        "timm:m", stage="done", proof=2e-9, proof_precision="float64", num_coupled_norms=3,
        norm_coupled_difference=0.25,
    )  # fmt: skip
    write_table([row], {}, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| 2e-09, float64 |" in text
    assert "| pass, norm-coupled |" in text
    assert "| timm:m | 3 | 2e-01 |" in text


def test_zoo_has_each_name_once_and_every_timm_family() -> None:
    names = [model.name for model in zoo()]
    assert len(names) == len(set(names))
    assert set(names) >= NORM_COUPLED
    families = [model.family for model in select("families") if model.name.startswith("timm:")]
    assert len(families) == len(set(families)) >= 98


def test_globs_choose_from_the_whole_zoo() -> None:
    assert [model.name for model in select("sample", ("torchvision:vgg1[36]",))] == [
        "torchvision:vgg13",
        "torchvision:vgg16",
    ]


@pytest.mark.parametrize("failure", ["", "boom | bang"])
def test_table_has_a_line_for_each_model_and_says_what_fails(failure: str, tmp_path: Path) -> None:
    row = Row("timm:m", stage="done", failed_stage="proof" if failure else "", failure=failure)
    write_table([row], {}, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| timm:m |" in text
    assert ("boom \\| bang" in text) == bool(failure)
    assert ("| pass |" in text) == (not failure)
