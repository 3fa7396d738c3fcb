"""The doctor says what works and gives the one line that brings the rest."""

from __future__ import annotations

import pytest

from fairdeploy.runs.doctor.abilities import Ability, abilities
from fairdeploy.runs.doctor.findings import Answer, Findings
from tests.runs.doctor.machines import CUDA_TORCH, H100, ONNXRUNTIME, TORCH, machine

BARE = machine({})


def ability(findings: Findings, name: str) -> Ability:
    (found,) = [one for one in abilities(findings) if one.name == name]
    return found


def test_a_machine_with_torch_alone_is_told_what_to_install_for_each_thing() -> None:
    lacking = {one.name: one.install for one in abilities(BARE) if not one.works and one.install}
    assert lacking == {
        "timm and torchvision models": "pip install timm torchvision",
        "OpenVINO": "pip install 'fairdeploy[openvino]'",
        "TensorRT engines": "pip install 'fairdeploy[tensorrt]'",
        "build engines for RTX GPUs": "pip install 'fairdeploy[tensorrt-rtx]'",
        "engines through torch-tensorrt": "pip install 'fairdeploy[torch-tensorrt]'",
        "fairdeploy demo": "pip install 'fairdeploy[demo]'",
    }


def test_what_works_names_what_it_works_with() -> None:
    found = machine(
        {"onnxruntime": "1.32.0", "scikit-learn": "1.9.1"}, {"onnxruntime": ONNXRUNTIME}
    )
    assert ability(found, "ONNX on this CPU") == Ability(
        "ONNX on this CPU", True, "onnxruntime 1.32.0"
    )
    assert ability(found, "prune, prove and repair").detail == "torch 2.13.0+cpu, built for CPU"
    assert ability(found, "fairdeploy demo").works


def test_a_cpu_without_a_usable_onnx_runtime_is_told_the_extra() -> None:
    found = machine({}, targets={"cpu": "onnxruntime cannot be imported"})
    assert ability(found, "ONNX on this CPU") == Ability(
        "ONNX on this CPU", False, "onnxruntime cannot be imported",
        "pip install 'fairdeploy[cpu]'",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ONNX on an NVIDIA GPU", "ONNX through TensorRT's provider"])
def test_no_package_is_proposed_where_there_is_no_gpu(name: str) -> None:
    found = ability(machine({"onnxruntime": "1.32.0"}), name)
    assert found == Ability(name, False, "no NVIDIA GPU and no driver seen", None)


def test_the_cpu_build_beside_a_gpu_is_to_be_replaced_by_the_gpu_build() -> None:
    found = ability(machine({"onnxruntime": "1.32.0"}, gpus=H100), "ONNX on an NVIDIA GPU")
    assert found.install == "pip uninstall -y onnxruntime && pip install 'fairdeploy[gpu]'"


def test_a_gpu_build_that_finds_no_cuda_is_told_which_libraries() -> None:
    found = machine({"onnxruntime-gpu": "1.31.0"}, gpus=H100, targets={"cuda": "libraries missing"})
    assert ability(found, "ONNX on an NVIDIA GPU").detail.startswith("libraries missing; CUDA and")
    assert ability(found, "ONNX on an NVIDIA GPU").install == (
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


@pytest.mark.parametrize(("version", "seen"), [(None, "none"), ("11.4.0", "TensorRT 11.4.0")])
def test_the_tensorrt_provider_is_told_which_tensorrt_it_loads(
    version: str | None, seen: str
) -> None:
    found = ability(
        machine({"onnxruntime-gpu": "1.31.0", "tensorrt": version}, gpus=H100),
        "ONNX through TensorRT's provider",
    )
    assert found.detail == f"onnxruntime-gpu loads TensorRT 10, and here is {seen}"
    assert found.install == "pip install 'tensorrt<11'"


def test_torch_tensorrt_beside_an_older_tensorrt_wants_an_environment_of_its_own() -> None:
    found = ability(machine({"tensorrt": "10.3.0"}), "engines through torch-tensorrt")
    assert found.detail == "it needs TensorRT 11, and here is 10; take an environment of its own"


def test_engines_need_a_torch_that_sees_the_gpu() -> None:
    packages, told = {"tensorrt": "11.4.0"}, {"tensorrt": Answer({"version": "11.4.0"})}
    blind = ability(machine(packages, told, gpus=H100), "TensorRT engines")
    assert (blind.works, blind.detail) == (
        False, "tensorrt 11.4.0; torch 2.13.0+cpu does not see the GPU",
    )  # fmt: skip
    seeing = machine(packages, {**told, "torch": CUDA_TORCH}, gpus=H100)
    assert ability(seeing, "TensorRT engines").works


def test_rtx_engines_are_built_without_a_gpu_but_not_run() -> None:
    found = machine({"tensorrt-rtx": "1.7"}, {"tensorrt_rtx": Answer({"version": "1.7.1"})})
    assert ability(found, "build engines for RTX GPUs").works
    running = ability(found, "run engines for RTX GPUs")
    assert (running.works, running.detail) == (
        False, "tensorrt-rtx 1.7.1; no NVIDIA GPU and no driver seen",
    )  # fmt: skip


def test_a_library_that_is_installed_but_broken_is_quoted() -> None:
    found = machine({"openvino": "2026.4"}, {"openvino": Answer(problem="crashes (SIGILL)")})
    assert ability(found, "OpenVINO").detail == (
        "openvino is installed but broken: crashes (SIGILL)"
    )


def test_openvino_tells_devices_bf16_and_nncf() -> None:
    told = {"version": "2026.4", "devices": {"CPU": ["FP32", "BF16"], "GPU": ["FP16"]}}
    found = machine({"openvino": "2026.4"}, {"openvino": Answer(told)})
    assert ability(found, "OpenVINO").detail == "openvino 2026.4 on CPU, GPU"
    assert ability(found, "OpenVINO in bf16") == Ability("OpenVINO in bf16", True, "on CPU")
    assert ability(found, "OpenVINO's own int8").install == "pip install 'fairdeploy[openvino]'"
    told["devices"] = {"CPU": ["FP32"]}
    assert ability(found, "OpenVINO in bf16") == Ability(
        "OpenVINO in bf16", False, "this CPU does not compute in bf16"
    )


def test_a_machine_on_which_nothing_can_be_asked_still_gets_an_answer() -> None:
    broken = Answer(problem="crashes (SIGSEGV)")
    found = machine(
        {"onnxruntime": "1.32.0"}, {"torch": broken, "onnxruntime": broken},
        standing=broken, has_ssh=False,
    )  # fmt: skip
    assert [one.name for one in abilities(found) if one.works] == []
    assert ability(found, "ONNX on this CPU").detail == "crashes (SIGSEGV)"
    assert ability(found, "prune, prove and repair").install == (
        "pip install --force-reinstall torch"
    )


def test_torch_is_told_with_its_cuda() -> None:
    assert TORCH.value != CUDA_TORCH.value
    found = machine({}, {"torch": CUDA_TORCH})
    assert ability(found, "prune, prove and repair").detail == (
        "torch 2.13.0+cu130, built for CUDA 13.0"
    )
