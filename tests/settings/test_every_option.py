"""Every option can be typed, written to ``fairdeploy.toml`` and looked up.

What stands nowhere is named here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from fairdeploy.cli import app as cli
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.project_file import ProjectFile
from fairdeploy.settings.run import ShrinkSettings, resolve_shrink

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "fairdeploy/cli/guides").glob("*.md"))]

TYPED_AND_WRITTEN = {
    "arch": ('"timm:resnet18"', "--arch timm:resnet18"),
    "weights": ('"model_ema"', "--weights model_ema"),
    "num_classes": ("7", "--num-classes 7"),
    "input_size": ("[3, 32, 24]", "--input-size 3,32,24"),
    "inputs": ('"image:3,8,8"', "--input image:3,8,8"),
    "main_output": ('"logits"', "--main-output logits"),
    "fixed_batch": ("4", "--fixed-batch 4"),
    "mean": ("[0.1, 0.2, 0.3]", "--mean 0.1,0.2,0.3"),
    "std": ("[0.1, 0.2, 0.3]", "--std 0.1,0.2,0.3"),
    "crop_pct": ("0.9", "--crop-pct 0.9"),
    "crop_mode": ('"squash"', "--crop-mode squash"),
    "interpolation": ('"bilinear"', "--interpolation bilinear"),
    "channel_order": ('"bgr"', "--channel-order bgr"),
    "white": ("1023", "--white 1023"),
    "data": ('"/other.npz"', "--data /other.npz"),
    "class_names": ('["cat", "dog"]', "--class-names cat,dog"),
    "task": ('"imitation"', "--task imitation"),
    "class_order": ('"text"', "--class-order text"),
    "num_calibration": ("99", "--num-calibration 99"),
    "num_selection": ("77", "--num-selection 77"),
    "budget": ('["30%", "macs=40%"]', "--budget 30% --budget macs=40%"),
    "target": ('"cpu-1thread"', "--target cpu-1thread"),
    "seed": ("7", "--seed 7"),
    "recover": ('"batchnorm"', "--recover batchnorm"),
    "signal": ('"l2"', "--signal l2"),
    "protect": ('"l1"', "--protect l1"),
    "allocation": ('"global"', "--allocation global"),
    "attention": ('"both"', "--attention both"),
    "allow_norm_coupled": ("true", "--allow-norm-coupled"),
    "blocks": ("true", "--blocks"),
    "output": ('"/made"', "--output /made"),
    "include": ('["a", "b.*"]', "--include a --include b.*"),
    "exclude": ('"stem"', "--exclude stem"),
    "max_prune": ("{ 'layer4.*' = 0.3 }", "--max-prune layer4.*=0.3"),
    "min_units": ("{ stem = 16 }", "--min-units stem=16"),
    "round_to": ("16", "--round-to 16"),
    "steps": ("3", "--steps 3"),
    "max_drop": ('"2%"', "--max-drop 2%"),
    "smallest": ('"macs"', "--smallest macs"),
    "finetune": ("4", "--finetune 4"),
    "distill": ("true", "--distill"),
    "learning_rate": ("0.01", "--learning-rate 0.01"),
    "batch_size": ("32", "--batch-size 32"),
}
"""A key of ``fairdeploy.toml``, a value that is not its default, and the same typed."""
RUN = {"budget": '"50%"', "data": '"/images.npz"'}
TRAINED = {**RUN, "finetune": "5"}
OTHERWISE = {
    **dict.fromkeys(("distill", "learning_rate", "batch_size"), TRAINED),
    "smallest": {"max_drop": '"1%"', "data": '"/images.npz"'},
}
"""What a file must say besides, before the key means something; ``RUN`` for all others."""
ONLY_WRITTEN = {"max_test": "how many images are held back belongs to the data set"}
ONLY_TYPED = {
    "--trust-pickle": "a folder that comes with a model must not be able to ask for it",
    "--trust-project": "as --trust-pickle",
    "--force": "a result is replaced once, not each time",
    "--json": "what the caller reads",
    "--quiet": "what the caller reads",
    "--prove": "asked of one inspection",
    "--depth": "how far one inspection is printed",
    "--no-latency": "a run whose file says so would leave out the measurement unseen",
    "--no-blocks": "takes back what the file says",
    "--metric": "one sweep's",
    "--points": "one sweep's",
    "--at": "one sweep's",
    "--host": "a machine that is there today",
    "--port": "of --host",
    "--remote-python": "of --host",
    "--ssh-option": "of --host; could run programs",
}
NOT_SET = {
    "model.source": "the argument of the command",
    "model.module": "given in a call from Python",
    "loaders": "given in a call from Python",
    "model.trust_pickle": ONLY_TYPED["--trust-pickle"],
    "force": ONLY_TYPED["--force"],
    "with_latency": ONLY_TYPED["--no-latency"],
    "host": ONLY_TYPED["--host"],
    "command": "what was typed, for the report",
}
"""Fields of the settings that no key changes."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolved(
    monkeypatch: pytest.MonkeyPatch, file: dict[str, str], words: str = ""
) -> ShrinkSettings:
    """What ``fairdeploy shrink net.pt WORDS`` would run with beside such a file."""
    lines = [f"{key} = {value}\n" for key, value in file.items()]
    Path("fairdeploy.toml").write_text("".join(lines))
    asked: list[ShrinkOptions] = []

    def taken(options: ShrinkOptions, progress: object) -> None:
        asked.append(options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fairdeploy.runs.shrink.shrink", taken)
        cli.run(["shrink", "net.pt", *words.split()])
    return resolve_shrink(asked[0])


def leaves(settings: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its dotted name, as deep as there are dataclasses."""
    assert is_dataclass(settings)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "asked":  # what the others are made of
            continue
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


@pytest.mark.parametrize("key", TYPED_AND_WRITTEN)
def test_the_file_says_the_same_as_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    value, words = TYPED_AND_WRITTEN[key]
    besides = OTHERWISE.get(key, RUN)
    written = resolved(monkeypatch, {**besides, key: value})
    assert written == resolved(monkeypatch, besides, words)
    assert written != resolved(monkeypatch, besides)


def test_every_field_of_the_settings_can_be_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dict(leaves(resolved(monkeypatch, TRAINED)))
    keys = {key: value for key, (value, _) in TYPED_AND_WRITTEN.items()} | {"max_test": "5"}
    del keys["smallest"]  # means something without a budget only
    changed = {"smallest"}
    for key, value in keys.items():
        found = dict(leaves(resolved(monkeypatch, {**TRAINED, key: value})))
        changed |= {name for name in plain if found[name] != plain[name]}
    assert set(plain) - changed == set(NOT_SET)


def test_every_key_of_the_file_is_known_here() -> None:
    assert {field.name for field in fields(ProjectFile)} == {*TYPED_AND_WRITTEN, *ONLY_WRITTEN}


def test_every_option_of_a_run_has_a_key_or_a_reason() -> None:
    typed = {
        word
        for _, words in TYPED_AND_WRITTEN.values()
        for word in words.split()
        if word.startswith("--")
    }
    offered = options_of("shrink", "sweep", "inspect")
    assert offered - typed == set(ONLY_TYPED)
    assert typed <= offered


def test_every_option_stands_in_the_readme_or_a_guide() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    written = set(re.findall(r"--[a-z][a-z-]+", text))
    assert sorted(options_of() - written) == []
    assert all(key in text for key in ONLY_WRITTEN)


def options_of(*commands: str) -> set[str]:
    """The long options of these commands; of all, where none is named."""
    root = typer.main.get_command(cli.app)

    def walk(name: str, command: Any) -> Iterator[str]:
        for child, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {child}".strip(), inner)
        if not commands or name in commands:
            yield from (
                word
                for parameter in command.params
                for word in (*parameter.opts, *parameter.secondary_opts)
                if word.startswith("--")
            )

    return set(walk("", root))
