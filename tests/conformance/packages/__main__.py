"""``python -m tests.conformance.packages``: shrink networks of other packages by the command.

Each goes through ``fairdeploy shrink FILE.py:FACTORY`` in a process of its own: loading, task,
scores, removal with its proof, repair, export and parity. The table says for each what came out, or
the one line that refused it. Packages that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.packages.factories import OPTIONS

FACTORIES = Path(__file__).with_name("factories.py")
TABLE = Path(__file__).with_name("RESULTS.md")
MODULES = {
    "smp": "segmentation_models_pytorch", "facenet": "facenet_pytorch",
    "nnunet": "dynamic_network_architectures",
}  # fmt: skip
"""Where a package's module has another name than the factories' prefix."""
_NUM_IMAGES = 96


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the command made of one network."""

    name: str
    exit_code: int | None
    """None: its time was up."""
    seconds: float
    left: float | None = None
    """Parameters of the shrunk network, as a share of the original's."""
    proof: float | None = None
    parity: float | None = None
    """The largest relative error between torch and the file, over the batch sizes."""
    own_class: str = ""
    """Why the user's own class did not come back."""
    said: str = ""
    """The line that refused it, or what did not hold."""

    @property
    def is_good(self) -> bool:
        """Shrunk, proved, exported and equal to the file; the budget may be missed."""
        return self.exit_code in (0, 3) and self.proof is not None and self.parity is not None


def main() -> int:
    """Run and print; the exit code is 1 if a network was not served."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.packages")
    parser.add_argument("globs", nargs="*", default=["*"], help="names, as smp__*")
    parser.add_argument("--budget", default="60%")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=900.0, help="for each network")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    names = [name for name in OPTIONS if any(fnmatchcase(name, glob) for glob in given.globs)]
    missing = {package for package in map(package_of, names) if not find_spec(module_of(package))}
    names = [name for name in names if package_of(name) not in missing]
    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = []
        for outcome in pool.map(lambda name: shrink(name, given.budget, given.seconds), names):
            print(json.dumps(asdict(outcome)), flush=True)
            outcomes.append(outcome)
    num_good = sum(outcome.is_good for outcome in outcomes)
    print(f"{num_good} of {len(outcomes)} networks served; not installed: {sorted(missing)}")
    if given.write:
        TABLE.write_text(table(outcomes, given.budget), encoding="utf-8")
    return int(num_good < len(outcomes))


def package_of(name: str) -> str:
    """The prefix of a factory's name."""
    return name.partition("__")[0]


def module_of(package: str) -> str:
    """What is imported of a package."""
    return MODULES.get(package, package)


def shrink(name: str, budget: str, seconds: float) -> Outcome:
    """Shrink one network in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [
            sys.executable, "-m", "fairdeploy", "shrink", f"{FACTORIES}:{name}", *OPTIONS[name],
            "--budget", budget, "--no-latency", "--quiet", "--output", str(out),
            *data_for(OPTIONS[name], Path(folder)),
        ]  # fmt: skip
        settings = {"HF_HUB_OFFLINE": "1", "FAIRDEPLOY_CACHE": folder, "YOLO_OFFLINE": "true"}
        started = time.monotonic()
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, cwd=folder,
                env=os.environ | settings, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(name, None, seconds, said=f"not ended after {seconds:.0f} s")
        return read_outcome(name, ended.returncode, time.monotonic() - started, out, ended.stderr)


def data_for(options: Sequence[str], folder: Path) -> list[str]:
    """Arrays of the input's shape; none where the command makes images up by itself."""
    flag, text = options
    if flag != "--input":
        return []
    name, sizes, *kind = text.split(":")
    shape = (_NUM_IMAGES, *map(int, sizes.split(",")))
    drawn = np.random.default_rng(0)
    is_number = bool(kind) and kind[0].startswith("int")
    values = drawn.integers(2, 200, shape) if is_number else drawn.random(shape, "f4")
    arrays: dict[str, Any] = {name: values, f"test_{name}": values[:32]}
    np.savez(folder / "data.npz", **arrays)
    return ["--data", str(folder / "data.npz")]


def read_outcome(name: str, code: int, seconds: float, out: Path, stderr: str) -> Outcome:
    """What the folder and the last line say."""
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    said = lines[-1].removeprefix("error: ")[:200] if lines else ""
    if not (out / "report.json").is_file():
        last = stderr.strip().splitlines()[-1:] or [""]
        return Outcome(name, code, seconds, said=said or last[0][:200])
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    before, after = (report["model"][which]["params"] for which in ("original", "shrunk"))
    return Outcome(
        name,
        code,
        seconds,
        left=after / before,
        proof=report["proof"]["max_relative_error"],
        parity=max((row["max_relative_error"] for row in report["parity"]), default=None),
        own_class=report["model"]["own_class"]["problem"] or "",
        said=said,
    )


def table(outcomes: Sequence[Outcome], budget: str) -> str:
    """The table as Markdown."""
    num_good = sum(outcome.is_good for outcome in outcomes)
    head = (
        "# Networks of other packages\n\n"
        f"`python -m tests.conformance.packages --write`: {num_good} of {len(outcomes)} are shrunk "
        f"to {budget} of their parameters by `fairdeploy shrink FILE.py:FACTORY`, proved, exported "
        "and equal to their file. Random weights, so nothing is said of accuracy.\n\n"
        "| network | left | proof | parity | seconds | |\n|---|--:|--:|--:|--:|---|\n"
    )
    return head + "".join(f"{row(outcome)}\n" for outcome in outcomes)


def row(outcome: Outcome) -> str:
    """One line of the table."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    cells = (
        outcome.name.replace("__", " ", 1), shown(outcome.left, ".1%"),
        shown(outcome.proof, ".1e"), shown(outcome.parity, ".1e"), f"{outcome.seconds:.0f}",
        outcome.said.replace("|", "/"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
