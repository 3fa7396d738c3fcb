"""What works on this machine, and the line that brings what does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fairdeploy.runs.doctor.findings import Findings
from fairdeploy.runs.doctor.packages import ONNX_TENSORRT_MAJOR, TORCH_TENSORRT_MAJOR, major

_CPU_BUILD = "pip install 'fairdeploy[cpu]'"
_GPU_BUILD = "pip uninstall -y onnxruntime && pip install 'fairdeploy[gpu]'"


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that fairdeploy can do on some machines."""

    name: str
    works: bool
    detail: str
    """With what, or why not."""
    install: str | None = None
    """What to type where it does not work; None where no package helps."""


def abilities(findings: Findings) -> tuple[Ability, ...]:
    """All of them, those that every machine has first."""
    return (
        _networks(findings),
        _model_zoo(findings),
        _onnx_on_cpu(findings),
        _onnx_on_gpu(findings),
        _onnx_through_tensorrt(findings),
        *_openvino(findings),
        _tensorrt(findings),
        *_tensorrt_rtx(findings),
        _torch_tensorrt(findings),
        _other_devices(findings),
        _demo(findings),
    )


def _networks(findings: Findings) -> Ability:
    name, told = "prune, prove and repair", findings.told("torch")
    if told is not None:
        build = f"CUDA {told['cuda']}" if told["cuda"] else "CPU"
        return Ability(name, True, f"torch {told['version']}, built for {build}")
    return _lacking(name, findings, "torch", "torch", "pip install torch")


def _model_zoo(findings: Findings) -> Ability:
    name, told = "timm and torchvision models", findings.told("torchvision")
    if told is not None and findings.has("timm"):
        return Ability(
            name, True, f"timm {findings.versions['timm']}, torchvision {told['version']}"
        )
    missing = "torchvision" if told is None else "timm"
    return _lacking(name, findings, missing, missing, "pip install timm torchvision")


def _onnx_on_cpu(findings: Findings) -> Ability:
    name = "ONNX on this CPU"
    if _is_usable(findings, "cpu"):
        told = findings.told("onnxruntime") or {"version": ""}
        return Ability(name, True, f"onnxruntime {told['version']}".strip())
    return Ability(name, False, _target_problem(findings, "cpu"), _CPU_BUILD)


def _onnx_on_gpu(findings: Findings) -> Ability:
    name = "ONNX on an NVIDIA GPU"
    if _is_usable(findings, "cuda"):
        return Ability(name, True, "CUDAExecutionProvider")
    if findings.gpus.problem is not None:
        return Ability(name, False, findings.gpus.problem)
    if findings.has("onnxruntime-gpu"):
        return Ability(
            name, False,
            f"{_target_problem(findings, 'cuda')}; CUDA and cuDNN of the versions that this "
            "onnxruntime-gpu is built for must be found",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )  # fmt: skip
    return Ability(name, False, "onnxruntime is the CPU build", _GPU_BUILD)


def _onnx_through_tensorrt(findings: Findings) -> Ability:
    name = "ONNX through TensorRT's provider"
    if _is_usable(findings, "onnx-tensorrt"):
        return Ability(name, True, "TensorrtExecutionProvider")
    if findings.gpus.problem is not None:
        return Ability(name, False, findings.gpus.problem)
    if not findings.has("onnxruntime-gpu"):
        return Ability(name, False, "onnxruntime is the CPU build", _GPU_BUILD)
    found = findings.versions.get("tensorrt")
    return Ability(
        name, False,
        f"onnxruntime-gpu loads TensorRT {ONNX_TENSORRT_MAJOR}, and here is "
        f"{f'TensorRT {found}' if found else 'none'}",
        f"pip install 'tensorrt<{ONNX_TENSORRT_MAJOR + 1}'",
    )  # fmt: skip


def _openvino(findings: Findings) -> Iterator[Ability]:
    install, told = "pip install 'fairdeploy[openvino]'", findings.told("openvino")
    if told is None:
        yield _lacking("OpenVINO", findings, "openvino", "openvino", install)
        return
    devices = ", ".join(told["devices"]) or "no device"
    yield Ability("OpenVINO", bool(told["devices"]), f"openvino {told['version']} on {devices}")
    has_nncf = findings.has("nncf")
    detail = f"nncf {findings.versions['nncf']}" if has_nncf else (
        "nncf is not installed; the quantised ONNX file is taken instead"
    )  # fmt: skip
    yield Ability("OpenVINO's own int8", has_nncf, detail, None if has_nncf else install)
    fast = [name for name, able in told["devices"].items() if "BF16" in able]
    yield Ability(
        "OpenVINO in bf16", bool(fast),
        f"on {', '.join(fast)}" if fast else "this CPU does not compute in bf16",
    )  # fmt: skip


def _tensorrt(findings: Findings) -> Ability:
    name, told = "TensorRT engines", findings.told("tensorrt")
    if told is None:
        install = "pip install 'fairdeploy[tensorrt]'"
        return _lacking(name, findings, "tensorrt", "tensorrt", install)
    return _needs_gpu(name, findings, f"tensorrt {told['version']}")


def _tensorrt_rtx(findings: Findings) -> Iterator[Ability]:
    build, told = "build engines for RTX GPUs", findings.told("tensorrt_rtx")
    if told is None:
        install = "pip install 'fairdeploy[tensorrt-rtx]'"
        yield _lacking(build, findings, "tensorrt_rtx", "tensorrt-rtx", install)
        return
    yield Ability(build, True, f"tensorrt-rtx {told['version']}; needs no GPU")
    yield _needs_gpu("run engines for RTX GPUs", findings, f"tensorrt-rtx {told['version']}")


def _torch_tensorrt(findings: Findings) -> Ability:
    name, told = "engines through torch-tensorrt", findings.told("torch_tensorrt")
    if told is not None:
        return _needs_gpu(name, findings, f"torch-tensorrt {told['version']}")
    install = "pip install 'fairdeploy[torch-tensorrt]'"
    found = major(findings.versions.get("tensorrt"))
    if found in (None, TORCH_TENSORRT_MAJOR):
        return _lacking(name, findings, "torch_tensorrt", "torch-tensorrt", install)
    return Ability(
        name, False,
        f"it needs TensorRT {TORCH_TENSORRT_MAJOR}, and here is {found}; take an environment of "
        "its own", install,
    )  # fmt: skip


def _other_devices(findings: Findings) -> Ability:
    name = "measure on other devices (--host)"
    detail = "ssh" if findings.has_ssh else "no ssh; install the OpenSSH client of your system"
    return Ability(name, findings.has_ssh, detail)


def _demo(findings: Findings) -> Ability:
    found = findings.versions.get("scikit-learn")
    if found:
        return Ability("fairdeploy demo", True, f"scikit-learn {found}")
    return Ability(
        "fairdeploy demo", False, "scikit-learn is not installed", "pip install 'fairdeploy[demo]'"
    )


def _needs_gpu(name: str, findings: Findings, library: str) -> Ability:
    """Whether a library that is there finds a GPU, and a torch that can use it."""
    if findings.gpus.problem is not None:
        return Ability(name, False, f"{library}; {findings.gpus.problem}")
    torch = findings.told("torch")
    if torch is not None and not torch["sees_gpu"]:
        return Ability(
            name, False, f"{library}; torch {torch['version']} does not see the GPU",
            "pip install torch, of the build for your CUDA version",
        )  # fmt: skip
    return Ability(name, True, library)


def _is_usable(findings: Findings, target: str) -> bool:
    return findings.targets.get(target, "unknown") is None


def _target_problem(findings: Findings, target: str) -> str:
    unknown = findings.standing.problem or f"no target '{target}'"
    return findings.targets.get(target) or unknown


def _lacking(name: str, findings: Findings, module: str, package: str, install: str) -> Ability:
    """A library that is missing, broken, or slow to answer."""
    answer = findings.runtimes.get(module)
    if answer is None or answer.problem is None:
        return Ability(name, False, f"{package} is not installed", install)
    if answer.is_late:
        late = f"{package} {answer.problem}; try again when the machine is less busy"
        return Ability(name, False, late)
    return Ability(
        name, False, f"{package} is installed but broken: {answer.problem}",
        f"pip install --force-reinstall {package}",
    )  # fmt: skip
