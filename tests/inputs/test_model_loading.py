"""Every form a network comes in loads to the same thing; every bad file is one clear line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.inputs.model_loading import load_model
from tests.inputs.tiny_inputs import tiny_network, write_factory_file

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def arch_in(folder: Path) -> str:
    """``--arch`` text of the tiny network."""
    return f"{write_factory_file(folder)}:network"


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dict_loads_however_it_is_nested_and_prefixed(
    tmp_path: Path, key: str | None, prefix: str
) -> None:
    network = tiny_network()
    weights = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)
    assert torch.equal(loaded.module(IMAGES), network(IMAGES))
    assert not loaded.module.training
    assert loaded.preprocessing.shape == (3, 8, 8)


def test_safetensors_loads_like_the_state_dict(tmp_path: Path) -> None:
    save_file(tiny_network().state_dict(), tmp_path / "model.safetensors")
    torch.save(tiny_network().state_dict(), tmp_path / "model.pt")
    options = {"arch": arch_in(tmp_path), "input_shape": 8}
    one = load_model(str(tmp_path / "model.safetensors"), **options)  # type: ignore[arg-type]
    other = load_model(str(tmp_path / "model.pt"), **options)  # type: ignore[arg-type]
    assert one.sha256 == other.sha256


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_file_that_was_saved_without_checksums_loads(tmp_path: Path, is_whole: bool) -> None:
    network = tiny_network()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network if is_whole else network.state_dict(), tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    loaded = load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)
    assert torch.equal(loaded.module(IMAGES), network(IMAGES))


def test_whole_module_loads_in_eval_mode_and_ignores_an_architecture(tmp_path: Path) -> None:
    torch.save(tiny_network().train(), tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), arch="timm:resnet18", input_shape=(3, 8, 8))
    assert not any(module.training for module in loaded.module.modules())
    assert loaded.name == "model"
    assert "--arch timm:resnet18 is ignored" in loaded.warnings[0]


def test_module_inside_a_training_checkpoint_is_found_and_unwrapped(tmp_path: Path) -> None:
    torch.save({"model": nn.DataParallel(tiny_network()), "epoch": 1}, tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), input_shape=8)
    assert isinstance(loaded.module, nn.Sequential)


def test_number_of_classes_is_read_off_the_weights(tmp_path: Path) -> None:
    torch.save(tiny_network(num_classes=9).state_dict(), tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)
    assert loaded.module(IMAGES).shape == (2, 9)


def test_wrong_shapes_name_the_weights_and_both_shapes(tmp_path: Path) -> None:
    torch.save(tiny_network(width=6).state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        ModelError, match=r"'0\.weight' is \[6, 3, 3, 3\] in the file, \[4, 3, 3, 3\] in the netw"
    ):
        load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)


def test_missing_and_surplus_weights_are_named(tmp_path: Path) -> None:
    weights = tiny_network().state_dict()
    weights["head.bias"] = weights.pop("4.bias")
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(
        ModelError, match=r"lacks '4\.bias' \[5\]; the network lacks 'head\.bias' \[5\]"
    ):
        load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)


def test_options_after_the_architecture_reach_the_factory(tmp_path: Path) -> None:
    torch.save(tiny_network(width=6).state_dict(), tmp_path / "model.pt")
    arch = f"{arch_in(tmp_path)},width=6"
    loaded = load_model(str(tmp_path / "model.pt"), arch=arch, input_shape=8)
    assert loaded.module.get_parameter("0.weight").shape == (6, 3, 3, 3)


def test_state_dict_without_architecture_asks_for_one(tmp_path: Path) -> None:
    torch.save(tiny_network().state_dict(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="holds weights only; name their network with --arch"):
        load_model(str(tmp_path / "model.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    network = tiny_network()
    network.get_parameter("4.bias").data[2] = value
    torch.save(network, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"'4\.bias' in .* has 1 of 5 values that are NaN or inf"):
        load_model(str(tmp_path / "model.pt"), input_shape=8)


def test_half_precision_weights_become_float32_and_it_is_said(tmp_path: Path) -> None:
    torch.save(tiny_network().bfloat16(), tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), input_shape=8)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert any("torch.bfloat16 became float32" in warning for warning in loaded.warnings)


def test_unknown_input_size_asks_for_the_option(tmp_path: Path) -> None:
    torch.save(tiny_network(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="give --input-size, for example --input-size 32"):
        load_model(str(tmp_path / "model.pt"))


def test_unknown_normalisation_is_a_warning_and_given_one_is_used(tmp_path: Path) -> None:
    torch.save(tiny_network(), tmp_path / "model.pt")
    assumed = load_model(str(tmp_path / "model.pt"), input_shape=8)
    assert assumed.preprocessing.mean == (0.0, 0.0, 0.0)
    assert "give --mean and --std" in assumed.warnings[0]
    given = load_model(str(tmp_path / "model.pt"), input_shape=8, mean=(0.5,), std=(0.2, 0.3, 0.4))
    assert given.preprocessing.mean == (0.5, 0.5, 0.5)
    assert given.preprocessing.std == (0.2, 0.3, 0.4)
    assert given.warnings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, "--mean has 2 values; give 1 or 3"),
        ({"std": (0.0,)}, r"--std \[0.0, 0.0, 0.0\] must be above 0"),
        ({"input_shape": (3, 0, 8)}, r"input size \[3, 0, 8\] is impossible"),
    ],
)
def test_impossible_input_formats_are_usage_errors(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    torch.save(tiny_network(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=message):
        load_model(str(tmp_path / "model.pt"), **{"input_shape": 8, **options})  # type: ignore[arg-type]


def test_hash_depends_on_the_weights_only(tmp_path: Path) -> None:
    network = tiny_network()
    torch.save(network, tmp_path / "a.pt")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "b.pt")
    network.get_parameter("0.bias").data[0] += 1e-6
    torch.save(network, tmp_path / "c.pt")
    first, same = (
        load_model(str(tmp_path / name), arch=arch_in(tmp_path), input_shape=8).sha256
        for name in ("a.pt", "b.pt")
    )
    changed = load_model(str(tmp_path / "c.pt"), input_shape=8).sha256
    assert first == same != changed
    assert len(first) == 64


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.save(tiny_network().state_dict(), tmp_path / "model.pt")
    before = (torch.get_rng_state(), random.getstate())
    np.random.seed(11)
    expected = np.random.random()
    np.random.seed(11)
    load_model(str(tmp_path / "model.pt"), arch=arch_in(tmp_path), input_shape=8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.random() == expected


def write_bad_file(path: Path, kind: str) -> None:
    """One of the files that are no checkpoint."""
    torch.save(tiny_network(), path)
    whole = path.read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello, this is not a model\n" * 10,
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "garbage": b"\x80\x02" + bytes(range(256)) * 4,
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"is cut off: its end is missing"),
        ("empty", r"is empty \(0 bytes\)"),
        ("text", r"is not a PyTorch checkpoint; save it with torch\.save"),
        ("pointer", r"is a Git LFS pointer, not the model"),
        ("garbage", r"is damaged or not a PyTorch checkpoint"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "model.pt"
    write_bad_file(path, kind)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(path), input_shape=8)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_foreign_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model file '.*absent\.pt'; give a path"):
        load_model(str(tmp_path / "absent.pt"))
    with pytest.raises(ModelError, match="is a folder; give the model file in it"):
        load_model(str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(ModelError, match="is an ONNX file; give the PyTorch model behind it"):
        load_model(str(tmp_path / "model.onnx"))


def test_torchscript_archive_is_refused_with_what_to_give_instead(tmp_path: Path) -> None:
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "model.pt"))
    for record in ("data.pkl", "code/__torch__.py", "constants.pkl"):
        writer.write_record(record, b"\x80\x02}.", 4)
    writer.write_end_of_file()
    with pytest.raises(ModelError, match=r"is a TorchScript archive, which cannot be rewritten"):
        load_model(str(tmp_path / "model.pt"))


def test_checkpoint_without_a_network_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="holds neither a module nor a dictionary of tensors"):
        load_model(str(tmp_path / "model.pt"))


def test_module_without_parameters_has_nothing_to_shrink(tmp_path: Path) -> None:
    torch.save(nn.ReLU(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match="has no parameters; there is nothing to shrink"):
        load_model(str(tmp_path / "model.pt"), input_shape=8)
