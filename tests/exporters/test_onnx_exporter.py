"""ONNX files are whole, self-contained, take any batch, and tell nothing about their maker."""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.errors import ExportError
from fairdeploy.records import TensorNames
from fairdeploy.records.input_specs import VaryingSize
from fairdeploy.tasks.classification import Classification
from fairdeploy_onnx import OnnxExporter
from fairdeploy_onnx import exporter as onnx_exporter
from tests.deployment.fakes import PROFILE, profile
from tests.exporters.captured_networks import EXAMPLE, captured, captured_two_by_two

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    OnnxExporter().export(
        captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc", "tool": "x"}
    )
    return path


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_file_equals_torch_at_batch_one_and_three(written: Path) -> None:
    runner = OnnxExporter().open(written, PROFILE)
    results = check_parity(
        runner,
        captured(),
        "model.onnx",
        IMAGES,
        batches=(1, 3),
        limit=1e-5,
        task=Classification(is_known=True),
    )
    require_parity(results)
    assert [result.top1_agreement for result in results] == [1.0, 1.0]


def test_blocks_that_reshape_keep_their_dynamic_batch(tmp_path: Path) -> None:
    module = captured("attention", "shuffle", "padded_residual", "gated", "branches")
    path = tmp_path / "model.onnx"
    OnnxExporter().export(module, EXAMPLE, path, dynamic_batch=True, metadata={})
    runner = OnnxExporter().open(path, PROFILE)
    require_parity(check_parity(runner, module, "m", IMAGES, batches=(1, 3, 5), limit=1e-5))


def test_inputs_outputs_and_the_batch_axis_have_plain_names(written: Path) -> None:
    graph = onnx.load(written).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["output"]
    assert axes(graph.input[0]) == ["batch", 3, 8, 8]
    assert axes(graph.output[0]) == ["batch", 5]


def test_several_inputs_and_outputs_are_numbered(tmp_path: Path) -> None:
    path, module = tmp_path / "model.onnx", captured_two_by_two()
    example = (EXAMPLE[0], EXAMPLE[0] + 1)
    OnnxExporter().export(module, example, path, dynamic_batch=True, metadata={})
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["input_0", "input_1"]
    assert [value.name for value in graph.output] == ["output_0", "output_1"]
    assert [axes(value)[0] for value in graph.input] == ["batch", "batch"]
    inputs = (IMAGES[:3], IMAGES[2:])
    outputs = OnnxExporter().open(path, PROFILE).run(tuple(image.numpy() for image in inputs))
    for ours, theirs in zip(outputs, module(*inputs), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=False, metadata={})
    assert axes(onnx.load(path).graph.input[0]) == [2, 3, 8, 8]


def test_the_file_holds_our_metadata_and_no_paths_of_this_machine(written: Path) -> None:
    model = onnx.load(written)
    assert {item.key: item.value for item in model.metadata_props} == {"plan": "abc", "tool": "x"}
    assert str(Path(torch.__file__).parent).encode() not in written.read_bytes()
    keys = {item.key for node in model.graph.node for item in node.metadata_props}
    assert keys == {"fairdeploy.node"}


def test_the_file_stands_alone(written: Path) -> None:
    assert [file.name for file in written.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(written, load_external_data=False)
    assert all(not weight.external_data for weight in model.graph.initializer)


def test_the_same_network_gives_the_same_bytes_and_the_artifact_describes_them(
    written: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    artifact = OnnxExporter().export(
        captured(), EXAMPLE, again, dynamic_batch=True, metadata={"plan": "abc", "tool": "x"}
    )
    content = again.read_bytes()
    assert content == written.read_bytes()
    assert (artifact.path, artifact.format, artifact.precision) == ("again.onnx", "onnx", "fp32")
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert artifact.size_bytes == len(content)


def test_weights_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_exporter, "MAX_PROTOBUF_BYTES", 100)
    path, module = tmp_path / "model.onnx", captured()
    artifact = OnnxExporter().export(module, EXAMPLE, path, dynamic_batch=True, metadata={})
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
    assert artifact.size_bytes == sum(file.stat().st_size for file in files)
    runner = OnnxExporter().open(path, PROFILE)
    require_parity(check_parity(runner, module, "m", IMAGES, limit=1e-5))


def test_export_changes_neither_the_network_nor_torch_s_settings(tmp_path: Path) -> None:
    module = captured()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    code, level = module.code, logging.getLogger("torch.onnx").level
    was_grad_enabled = torch.is_grad_enabled()
    OnnxExporter().export(module, EXAMPLE, tmp_path / "m.onnx", dynamic_batch=True, metadata={})
    assert module.code == code
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert logging.getLogger("torch.onnx").level == level
    assert torch.is_grad_enabled() == was_grad_enabled


def test_nothing_is_printed_warned_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    module, path = captured("residual"), tmp_path / "m.onnx"
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        OnnxExporter().export(module, EXAMPLE, path, dynamic_batch=True, metadata={})
        OnnxExporter().open(path, PROFILE).run((IMAGES.numpy(),))
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in caught] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_operation_without_onnx_form_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    class Unusual(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.real(torch.linalg.eigvals(x))

    module = torch.export.export(Unusual(), EXAMPLE).module(check_guards=False)
    with pytest.raises(ExportError, match=r"this network has no ONNX form: .*linalg_eig") as caught:
        OnnxExporter().export(
            module, EXAMPLE, tmp_path / "m.onnx", dynamic_batch=False, metadata={}
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_with_a_baked_in_batch_is_refused_when_any_batch_is_asked(
    tmp_path: Path,
) -> None:
    class Baked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, -1)

    module = torch.export.export(Baked(), EXAMPLE).module(check_guards=False)
    with pytest.raises(ExportError, match="no ONNX form"):
        OnnxExporter().export(module, EXAMPLE, tmp_path / "m.onnx", dynamic_batch=True, metadata={})


def test_an_invalid_file_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise onnx.checker.ValidationError("bad node\nmore")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ExportError, match=r"the ONNX file 'm.onnx' is invalid: .*bad node$"):
        OnnxExporter().export(
            captured(), EXAMPLE, tmp_path / "m.onnx", dynamic_batch=True, metadata={}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "m.onnx"
    with pytest.raises(ExportError, match=r"cannot write '.*m.onnx': No such file or directory"):
        OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata={})


def test_missing_libraries_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert OnnxExporter().is_available() is None
    monkeypatch.setattr(onnx_exporter, "find_spec", lambda name: name == "onnx" or None)
    assert OnnxExporter().is_available() == (
        "exporter 'onnx' needs onnxscript and onnxruntime; run pip install 'fairdeploy[cpu]', "
        "or 'fairdeploy[gpu]' beside CUDA"
    )


def test_a_precision_that_it_does_not_write_is_refused(written: Path) -> None:
    with pytest.raises(ExportError, match=r"precision 'int4'.*it writes fp32, fp16, int8"):
        OnnxExporter().open(written, profile(precision="int4"))


def test_a_full_precision_file_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    metadata = {"fairdeploy.plan_sha256": "ab"}
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata=metadata)
    with pytest.raises(ExportError, match=r"is for fp16 files, and 'm.onnx' is fp32; shrink for"):
        OnnxExporter().open(path, profile(precision="fp16"))


def test_inputs_outputs_and_varying_sizes_get_the_names_that_are_given(tmp_path: Path) -> None:
    class Maps(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, object]:
            joined = left + right
            return {"left": joined, "pair": (joined.mean((2, 3)), None, joined)}

    width = VaryingSize("W", 4, 40, 4)
    varying = torch.export.Dim.DYNAMIC(min=4, max=40)
    program = torch.export.export(
        Maps(), (EXAMPLE[0], EXAMPLE[0] + 1), dynamic_shapes=({0: varying, 3: varying},) * 2
    )
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    names = TensorNames(("left", "right"), ("left", "pair_0", "pair_1"), ({3: width}, {3: width}))
    path = tmp_path / "m.onnx"
    example = (EXAMPLE[0], EXAMPLE[0] + 1)
    OnnxExporter().export(module, example, path, dynamic_batch=True, metadata={}, names=names)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["left", "right"]
    assert [axes(value) for value in graph.input] == [["batch", 3, 8, "W"]] * 2
    assert [value.name for value in graph.output] == ["left_out", "pair_0", "pair_1"]
    assert axes(graph.output[0]) == ["batch", 3, 8, "W"]
    inputs = (torch.ones(3, 3, 8, 12).numpy(), torch.ones(3, 3, 8, 12).numpy())
    outputs = OnnxExporter().open(path, PROFILE).run(inputs)
    assert [array.shape for array in outputs] == [(3, 3, 8, 12), (3, 3), (3, 3, 8, 12)]
    assert all((array == 2).all() for array in outputs)
