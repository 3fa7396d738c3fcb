"""Several processes, started by torchrun, train one network together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairdeploy.errors import UsageError
from fairdeploy.recovery.processes import PlainRuntime, open_runtime

SCRIPT = """
import torch
from fairdeploy.recovery.processes import launched_rank
from tests.recovery.shrunk_networks import shrink, small_residual
from tests.recovery.test_finetuning import labelled, tune

pair = shrink(small_residual(), 0.4)
summary = tune(pair, labelled(80, 1), labelled(50, 2), epochs=3, batch_size=10)
print("RANK", launched_rank(), summary.device, summary.epochs[0].score,
      summary.epochs[summary.best_epoch].score,
      float(pair.shrunk.get_parameter("head.weight").detach().double().sum()))
"""


def test_one_process_needs_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert isinstance(open_runtime(), PlainRuntime)


def test_several_processes_without_accelerate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"2 processes were started, but 'accelerate' is not"):
        open_runtime()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="needs fairdeploy[distributed]"
)
def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'exporters'}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = sorted(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RANK"))
    assert [row[0] for row in rows] == ["0", "1"]
    assert rows[0][1:] == rows[1][1:]
    assert rows[0][1:4] == ["2", "x", "cpu"]
    assert float(rows[0][5]) > float(rows[0][4])
