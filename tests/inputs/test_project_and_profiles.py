"""``fairdeploy.toml`` and target profiles: checked keys, located paths, clear errors."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fairdeploy.errors import ProjectFileError
from fairdeploy.records import default_multiple
from fairdeploy.settings.project_file import ProjectFile, load_project_file
from fairdeploy.settings.target_profiles import list_profiles, load_profile

WHOLE = """
arch = "nets.py:make"
weights = "model_ema"
num_classes = 10
input_size = [1, 28, 28]
mean = [0.5]
std = 0.25
crop_pct = 0.9
crop_mode = "squash"
interpolation = "bilinear"
channel_order = "bgr"
white = 4095
class_order = "text"
data = "digits"
class_names = ["zero", "one"]
num_calibration = 128
max_test = 0
budget = ["params=40%", "macs=50%"]
target = "cpu"
seed = 3
recover = "batchnorm"
output = "out"
include = "features"
exclude = ["stem", "head.*"]
min_units = 8
round_to = 16
steps = 2
max_drop = "1%"
smallest = "macs"
num_selection = 500
finetune = 5
distill = true
learning_rate = 0.02
batch_size = 32

[max_prune]
"*" = 0.7
"features.4.*" = 0
"""


def project_of(folder: Path, text: str) -> ProjectFile:
    """The project file with this text."""
    (folder / "fairdeploy.toml").write_text(text)
    return load_project_file(folder)


def test_folder_without_a_file_has_no_defaults(tmp_path: Path) -> None:
    project = load_project_file(tmp_path)
    assert all(getattr(project, field.name) is None for field in fields(project))


def test_every_key_is_read_and_paths_lie_beside_the_file(tmp_path: Path) -> None:
    assert project_of(tmp_path, WHOLE) == ProjectFile(
        arch=f"{tmp_path}/nets.py:make",
        weights="model_ema",
        num_classes=10,
        input_size=(1, 28, 28),
        mean=(0.5,),
        std=(0.25,),
        crop_pct=0.9,
        crop_mode="squash",
        interpolation="bilinear",
        channel_order="bgr",
        white=4095,
        class_order="text",
        data=f"{tmp_path}/digits",
        class_names=("zero", "one"),
        num_calibration=128,
        max_test=0,
        budget=("params=40%", "macs=50%"),
        target="cpu",
        seed=3,
        recover="batchnorm",
        output=f"{tmp_path}/out",
        include=("features",),
        exclude=("stem", "head.*"),
        max_prune=(("*", 0.7), ("features.4.*", 0.0)),
        min_units=(("*", 8),),
        round_to=16,
        steps=2,
        max_drop=0.01,
        smallest="macs",
        num_selection=500,
        finetune=5,
        distill=True,
        learning_rate=0.02,
        batch_size=32,
    )


def test_short_forms_and_what_is_no_path_stay_as_they_are(tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        'budget = "40%"\ninput_size = 32\narch = "timm:resnet18"\ndata = "my.data:loader"\n'
        'target = "mine/board.toml"\noutput = "/elsewhere"\n',
    )
    assert project.budget == ("40%",)
    assert project.input_size == 32
    assert project.arch == "timm:resnet18"
    assert project.data == "my.data:loader"
    assert project.target == f"{tmp_path}/mine/board.toml"
    assert project.output == "/elsewhere"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_prune = 70",
            "'max_prune' in .* is 70; give a number from 0 to 1, or a table of globs",
        ),
        ('[max_prune]\n"layer4.*" = -0.1', 'a number from 0 to 1, .*: "layer4.\\*" = 0.3'),
        ('[min_units]\n"layer4.*" = 2.5', "a whole number from 1, or a table of globs"),
        ("round_to = 0", "give a whole number from 1"),
        ("exclude = []", "give a text in quotes, or a list of them"),
        ("max_drop = 1", 'give a share of all images below 100%, such as "1%" or 0.01'),
        ("max_drop = true", "give a share of all images"),
        ("learning_rate = 2", "give a number above 0 and at most 1"),
        ('smallest = "latency"', "give one of params, macs, size"),
        ("finetune = -1", "give a whole number from 0"),
        ("steps = 21", "give a whole number from 1 to 20"),
        ("maxprune = 0.7", "did you mean 'max_prune'"),
    ],
)
def test_wrong_restrictions_say_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ProjectFileError, match=message):
        project_of(tmp_path, text)


def test_unknown_key_suggests_the_nearest_and_lists_all(tmp_path: Path) -> None:
    with pytest.raises(ProjectFileError, match=r"unknown key 'budgett'; did you mean 'budget'\? k"):
        project_of(tmp_path, 'budgett = "40%"')
    with pytest.raises(
        ProjectFileError,
        match="known keys are allocation, allow_norm_coupled, arch, attention, batch_size, blocks",
    ):
        project_of(tmp_path, "zzz = 1")


def test_project_file_cannot_ask_to_trust_pickles(tmp_path: Path) -> None:
    with pytest.raises(ProjectFileError, match="unknown key 'trust_pickle'"):
        project_of(tmp_path, "trust_pickle = true")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_classes = true", "'num_classes' in .* is True; give a whole number from 1"),
        ("num_classes = 0", "is 0; give a whole number from 1"),
        ('seed = "3"', "is '3'; give a whole number from 0"),
        ("input_size = [3, 32]", r"is \[3, 32\]; give one whole number, or three"),
        ("mean = [0.5, nan]", "give a list of numbers, one per channel"),
        ("std = [0.5, 0.0]", "give a number above 0"),
        ("budget = 40", "is 40; give a text in quotes, or a list of them"),
        ("class_names = [1, 2]", "give a list of texts"),
        ('data = " "', "give a text in quotes"),
        ("data = ", "is not valid TOML"),
    ],
)
def test_wrong_values_say_what_would_be_right(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ProjectFileError, match=message):
        project_of(tmp_path, line)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fairdeploy.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProjectFileError, match="is not UTF-8 text"):
        load_project_file(tmp_path)


def test_shipped_profiles_load_by_name_and_are_listed() -> None:
    profiles = {profile.name: profile for profile in list_profiles()}
    assert {"cpu", "cpu-1thread"} <= profiles.keys()
    assert load_profile("cpu") == profiles["cpu"]
    assert profiles["cpu"].runtime == "onnx"
    assert profiles["cpu"].threads == 0
    assert profiles["cpu-1thread"].threads == 1
    assert profiles["cpu"].parity_limit == 1e-4


def test_unknown_profile_lists_the_choices() -> None:
    with pytest.raises(
        ProjectFileError,
        match=r"no target profile 'tpu'; use one of cpu, cpu-1thread.* or a path ending in \.toml",
    ):
        load_profile("tpu")


def own_profile(folder: Path, change: tuple[str, str]) -> str:
    """A copy of the ``cpu`` profile with one text replaced."""
    profile = load_profile("cpu")
    lines = [
        f"{field.name} = {_toml(getattr(profile, field.name))}"
        for field in fields(profile)
        if field.name not in ("name", "affinity") and getattr(profile, field.name) is not None
    ]
    text = "\n".join(lines)
    assert change[0] in text
    (folder / "board.toml").write_text(text.replace(*change))
    return str(folder / "board.toml")


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_own_profile_is_named_after_its_file(tmp_path: Path) -> None:
    profile = load_profile(own_profile(tmp_path, ("threads = 0", "threads = 2")))
    assert profile.name == "board"
    assert profile.threads == 2


def test_optional_keys_are_read_and_have_defaults(tmp_path: Path) -> None:
    plain = load_profile(own_profile(tmp_path, ("threads = 0", "threads = 2")))
    assert (plain.input_size, plain.affinity, plain.idle_gap_ms) == (None, (), None)
    assert (plain.power, plain.machine) == ("as found", None)
    more = 'input_size = [3, 64, 32]\naffinity = [2, 3]\nidle_gap_ms = 33\nmachine = "riscv64"'
    profile = load_profile(own_profile(tmp_path, ("threads = 0", f"threads = 2\n{more}")))
    assert (profile.input_size, profile.affinity) == ((3, 64, 32), (2, 3))
    assert (profile.idle_gap_ms, profile.machine) == (33.0, "riscv64")


def test_a_multiple_that_is_not_measured_yet_is_eight(tmp_path: Path) -> None:
    measured = ('channel_multiple = "auto"', "channel_multiple = 4")
    assert default_multiple(load_profile(own_profile(tmp_path, measured))) == 4
    assert load_profile("cpu").channel_multiple == "auto"
    assert default_multiple(load_profile("cpu")) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("threads = 0", "thread = 0"), "unknown key 'thread'; did you mean 'threads'"),
        (("threads = 0", ""), r"board\.toml' lacks threads"),
        (("threads = 0", "threads = -1"), "is -1; give a whole number from 0"),
        (('precision = "fp32"', 'precision = "fp8"'), "is 'fp8'; give one of fp32, fp16, bf16"),
        (
            ('channel_multiple = "auto"', 'channel_multiple = "any"'),
            "is 'any'; give a whole number from 1, or \"auto\"",
        ),
        (
            ("threads = 0", "threads = 0\ninput_size = [224, 224]"),
            r"is \[224, 224\]; give three whole numbers: \[channels, height, width\]",
        ),
        (
            ("threads = 0", "threads = 0\naffinity = 2"),
            "is 2; give a list of whole numbers from 0",
        ),
        (("threads = 0", "threads = 0\nidle_gap_ms = 0"), "is 0; give a number above 0"),
        (("threads = 0", "threads = 0\nidle_gap = 3"), "did you mean 'idle_gap_ms'"),
    ],
)
def test_bad_profiles_say_what_would_be_right(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(ProjectFileError, match=message):
        load_profile(own_profile(tmp_path, change))


def test_missing_profile_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectFileError, match=r"no target profile file '.*absent\.toml'; use one"):
        load_profile(str(tmp_path / "absent.toml"))
