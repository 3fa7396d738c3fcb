"""Several processes, started by torchrun, train one network together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized

from fairdeploy.recovery.training.processes import accelerated, device_name
from tests.recovery.shrunk_networks import shrink, small_residual
from tests.recovery.test_finetuning import labelled, tune
from tests.tiny_project import write_project

SCRIPT = """
import torch
from fairdeploy.recovery.training.processes import launched_rank
from tests.recovery.shrunk_networks import shrink, small_residual
from tests.recovery.test_finetuning import labelled, tune

pair = shrink(small_residual(), 0.4)
summary = tune(pair, labelled(80, 1), labelled(50, 2), epochs=8, batch_size=10)
print("RANK", launched_rank(), summary.device, summary.epochs[0].score,
      summary.epochs[summary.best_epoch].score,
      float(pair.shrunk.get_parameter("head.weight").detach().double().sum()))
"""


@pytest.fixture(autouse=True)
def _no_accelerator_stays() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_training_leaves_nothing_of_accelerate_behind() -> None:
    for _ in range(2):
        with accelerated() as ours:
            assert device_name(ours) in ("cpu", "cuda")
    assert not is_initialized()
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    assert theirs.mixed_precision == "bf16"


def test_the_callers_own_accelerator_decides_and_norms_learn_in_its_precision() -> None:
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    pair = shrink(small_residual(), 0.4)
    before = {name: buffer.clone() for name, buffer in pair.shrunk.named_buffers()}
    summary = tune(pair, labelled(100, 1), labelled(50, 2), epochs=8)
    assert summary.best_epoch > 0
    assert is_initialized()
    assert theirs.mixed_precision == "bf16"
    means = [(name, buffer) for name, buffer in pair.shrunk.named_buffers() if "mean" in name]
    assert means
    for name, buffer in means:
        assert not torch.equal(buffer, before[name]), name


def two_processes(folder: Path, *arguments: str) -> str:
    """What both print together."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *arguments],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'exporters'}", "OMP_NUM_THREADS": "1"},
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    printed = two_processes(tmp_path, str(script))
    rows = sorted(line.split()[1:] for line in printed.splitlines() if line.startswith("RANK"))
    assert [row[0] for row in rows] == ["0", "1"]
    assert rows[0][1:] == rows[1][1:]
    assert rows[0][1:4] == ["2", "x", "cpu"]
    assert float(rows[0][5]) > float(rows[0][4])


@pytest.mark.slow
def test_a_whole_run_of_two_processes_trains_together_and_writes_one_result(
    tmp_path: Path,
) -> None:
    write_project(tmp_path)
    with (tmp_path / "fairdeploy.toml").open("a") as file:
        file.write("finetune = 2\nbatch_size = 8\nnum_selection = 20\n")
    printed = two_processes(
        tmp_path, "-m", "fairdeploy", "shrink", "model.pt", "--budget", "60%", "--no-latency",
        "--json",
    )  # fmt: skip
    document = json.loads(printed)
    assert document["tuning"]["device"] == "2 x cpu"
    assert [epoch["epoch"] for epoch in document["tuning"]["epochs"]] == [0, 1, 2]
    assert document["chain"]["passed"]
    assert sorted(path.name for path in tmp_path.glob("*-shrunk")) == ["model-shrunk"]
    assert (tmp_path / "model-shrunk" / "model.onnx").exists()
