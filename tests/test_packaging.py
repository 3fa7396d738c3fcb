from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import fairdeploy


def test_version_is_that_of_the_installed_package() -> None:
    assert metadata.version("fairdeploy") == fairdeploy.__version__


def test_exporter_is_registered_and_loads() -> None:
    (entry,) = metadata.entry_points(group="fairdeploy.exporters", name="onnx")
    exporter = entry.load()()
    assert exporter.name == "onnx"


def test_command_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="fairdeploy")
    assert script.value == "fairdeploy.cli.app:main"


def test_types_are_announced() -> None:
    assert (resources.files("fairdeploy") / "py.typed").is_file()


def test_runtimes_are_not_a_requirement_but_two_exclusive_extras() -> None:
    requires = metadata.requires("fairdeploy") or []
    runtimes = {line.replace('"', "'") for line in requires if line.startswith("onnxruntime")}
    assert {line.partition(";")[2].strip() for line in runtimes} == {
        "extra == 'cpu'",
        "extra == 'gpu'",
    }


def test_newer_torch_is_not_locked_out() -> None:
    (torch,) = [line for line in metadata.requires("fairdeploy") or [] if line.startswith("torch>")]
    assert "<" not in torch


def test_import_of_the_package_brings_no_torch() -> None:
    code = "import sys, fairdeploy; print('torch' in sys.modules, fairdeploy.load.__name__)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["False", "load"]


def test_unknown_attribute_is_an_attribute_error() -> None:
    assert not hasattr(fairdeploy, "shrinkk")


def test_package_names_no_path_of_the_machine_that_wrote_it() -> None:
    package = Path(fairdeploy.__file__).parent
    for file in package.rglob("*.py"):
        assert "/home/" not in file.read_text(encoding="utf-8"), file
