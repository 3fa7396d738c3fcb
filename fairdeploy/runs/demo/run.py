"""Makes the folder that ``fairdeploy demo`` works in: real images, a trained network, a project.

Everything in it is what a user would bring: nothing in ``fairdeploy shrink`` knows of the demo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from fairdeploy.errors import OutputError
from fairdeploy.files import folder_built_aside, require_room_for
from fairdeploy.runs.demo import network as demo_network
from fairdeploy.runs.demo.images import (
    IMAGE_SIZE,
    NUM_CLASSES,
    load_digit_splits,
    write_image_folder,
)
from fairdeploy.runs.progress import Progress

DEFAULT_FOLDER = Path("fairdeploy-demo")
MODEL_FILE = "model.pt"
PROJECT_FILE = "fairdeploy.toml"
IMAGES_FOLDER = "digits"
SHRINK_ARGUMENTS = ("shrink", MODEL_FILE, "--budget", "40%")
_SEED = 0


@dataclass(frozen=True, slots=True)
class DemoModel:
    """How good the network of the demo is before it is shrunk."""

    test_accuracy: float
    num_test: int


def prepare_demo(folder: Path, *, force: bool, progress: Progress) -> DemoModel:
    """Write images, a trained ``model.pt`` and a ``fairdeploy.toml``; the folder appears whole.

    Raises:
        OutputError: The folder holds something and ``force`` is not given, or cannot be written.
        DataError: scikit-learn is not installed.
    """
    check_demo_folder(folder, force=force)
    with folder_built_aside(folder, "name another folder") as scratch:
        return _fill(scratch, progress)


def check_demo_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds anything, unless ``force`` is given and it is an earlier demo.

    Raises:
        OutputError: As said, or it is a file or a link.
    """
    require_room_for(folder, "name another folder")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"'{folder}' is not a folder; name one that may be made")
    if not folder.exists() or not any(folder.iterdir()):
        return
    is_demo = all((folder / name).exists() for name in (MODEL_FILE, PROJECT_FILE, IMAGES_FOLDER))
    if not force:
        raise OutputError(f"folder '{folder}' is not empty; name another, or add --force")
    if not is_demo or not os.access(folder, os.W_OK):
        raise OutputError(
            f"folder '{folder}' holds no earlier demo; --force replaces nothing else; name another"
        )


def _fill(folder: Path, progress: Progress) -> DemoModel:
    with progress.stage("write images") as stage:
        train, test = load_digit_splits(_SEED)
        write_image_folder(folder / IMAGES_FOLDER / "train", train)
        write_image_folder(folder / IMAGES_FOLDER / "test", test)
        stage.note(f"{len(train.labels)} to train, {len(test.labels)} to test")
    mean, std = demo_network.normalization(train)
    with progress.stage("train network", total=demo_network.NUM_EPOCHS) as stage:
        # The weights' random state must not depend on, nor change, the caller's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = demo_network.build_network()
        demo_network.train(
            network,
            demo_network.images_as_input(train, mean, std),
            torch.from_numpy(train.labels),
            seed=_SEED,
            stage=stage,
        )
        accuracy = demo_network.accuracy(
            network,
            demo_network.images_as_input(test, mean, std),
            torch.from_numpy(test.labels),
        )
        stage.note(f"{accuracy:.1%} of {len(test.labels)} test images right")
    torch.save(network, folder / MODEL_FILE)
    (folder / PROJECT_FILE).write_text(_project_text(mean, std), encoding="utf-8")
    return DemoModel(accuracy, len(test.labels))


def _project_text(mean: float, std: float) -> str:
    class_names = ", ".join(f'"{digit}"' for digit in range(NUM_CLASSES))
    return f"""\
# Defaults for `fairdeploy` commands on the model in this folder.
data = "{IMAGES_FOLDER}"
class_names = [{class_names}]

# The images as the model takes them: channels, height, width; pixels in [0, 1], then normalised.
input_size = [1, {IMAGE_SIZE}, {IMAGE_SIZE}]
mean = [{mean}]
std = [{std}]
"""


def run_shrink(folder: Path) -> int:
    """Run ``fairdeploy shrink`` in ``folder`` as its own process; returns its exit code."""
    command = [sys.executable, "-m", "fairdeploy", *SHRINK_ARGUMENTS]
    return subprocess.run(command, cwd=folder, check=False).returncode
