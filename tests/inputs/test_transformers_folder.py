"""Folders of transformers: what is read of them, and what never runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fairdeploy
from fairdeploy.errors import ModelError
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.inputs.torchvision_compat import ensure_torchvision

ensure_torchvision()
transformers = pytest.importorskip("transformers")

SQUASHED = {
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 2,
    "size": {"height": 32, "width": 32}, "do_normalize": True,
}  # fmt: skip
CUT = {"crop_size": 32, "do_center_crop": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small vision transformer for seven classes."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=7,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(SQUASHED))
    return tmp_path / "vit"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``config.json``."""
    said = json.loads((folder / "config.json").read_text())
    change(said)
    (folder / "config.json").write_text(json.dumps(said))


def test_a_folder_is_a_network_with_its_preprocessing(folder: Path) -> None:
    loaded = load_model(str(folder))
    expected = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    x = torch.randn(2, 3, 32, 32)
    assert type(loaded.module) is transformers.ViTForImageClassification
    assert torch.equal(loaded.module(x).logits, expected(x).logits)
    assert loaded.name == "vit"
    shape = loaded.preprocessing
    assert (shape.shape, shape.mean, shape.std) == (
        (3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1),
    )  # fmt: skip
    assert (shape.crop_mode, shape.interpolation) == ("squash", "bilinear")


@pytest.mark.parametrize(
    ("said", "size", "crop_pct", "mode"),
    [
        ({"size": {"shortest_edge": 40}} | CUT, 32, 0.8, "center"),
        ({"size": 32, "crop_pct": 0.875}, 32, 0.875, "center"),
        ({"size": [32, 32]}, 32, 1.0, "center"),
    ],
)  # fmt: skip
def test_sizes_of_all_spellings_are_read(
    folder: Path, said: dict[str, Any], size: int, crop_pct: float, mode: str
) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    prepared = load_model(str(folder)).preprocessing
    assert (prepared.height, prepared.width) == (size, size)
    assert (prepared.crop_pct, prepared.crop_mode) == (crop_pct, mode)


def test_half_precision_becomes_float32(folder: Path) -> None:
    network = transformers.ViTForImageClassification.from_pretrained(folder).half()
    network.save_pretrained(folder)
    assert {tensor.dtype for tensor in load_model(str(folder)).module.parameters()} == {
        torch.float32
    }


def test_a_folder_is_shrunk_and_comes_back_in_its_class(folder: Path, tmp_path: Path) -> None:
    result = fairdeploy.shrink(
        str(folder), (torch.rand(64, 3, 32, 32),), "70%", latency=False, recover="none",
        num_calibration=32, seed=0, output=str(tmp_path / "out"),
    )  # fmt: skip
    assert type(result.network).__name__ == "ViTForImageClassification"
    mine = transformers.ViTForImageClassification.from_pretrained(folder)
    small = fairdeploy.load(tmp_path / "out", mine)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(small(x).logits, result.network(x).logits, atol=1e-5)


def test_code_that_the_folder_names_never_runs(folder: Path) -> None:
    ran = folder / "RAN"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")

    def change(said: dict[str, Any]) -> None:
        said["auto_map"] = {
            "AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model",
        }  # fmt: skip
        said["_attn_implementation"] = said["attn_implementation"] = "somebody/kernels"

    edit(folder, change)
    assert load_model(str(folder)).module.config.hidden_size == 16
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architectures": ["Nothing"]}, "has no network 'Nothing'"),
        ({"architectures": ["AutoModel"]}, "has no network 'AutoModel'"),
        ({"architectures": ["os.system"]}, "names no class"),
        ({"architectures": "ViTModel"}, "architectures is no list"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"hidden_size": 4096, "num_hidden_layers": 400}, "do not belong together"),
        ({"hidden_size": 24}, "cannot be loaded|does not hold all of"),
        ({"num_hidden_layers": "two"}, "cannot be loaded"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(
    folder: Path, change: dict[str, Any], expected: str
) -> None:
    edit(folder, lambda said: said.update(change))
    with pytest.raises(ModelError, match=expected) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3"])
def test_a_damaged_configuration_is_one_line(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json' (cannot be read|is damaged)"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "said", [{"size": {"width": 3}}, {"size": "large"}, {"size": 32, "image_mean": ["a"]}]
)
def test_a_damaged_preprocessor_is_one_line(folder: Path, said: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"cannot be .*; mend it, or delete it"):
        load_model(str(folder))


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors"):
        load_model(str(folder))


def test_an_adapter_that_points_elsewhere_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"})
    )
    with pytest.raises(ModelError, match="holds an adapter"):
        load_model(str(folder))


def test_loading_draws_nothing_on_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    capsys.readouterr()
    load_model(str(folder))
    assert capsys.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled() == was_on


def test_the_head_of_another_task_is_missed(folder: Path) -> None:
    edit(folder, lambda said: said.update(architectures=["ViTForMaskedImageModeling"]))
    with pytest.raises(ModelError, match="does not hold all of ViTForMaskedImageModeling: missing"):
        load_model(str(folder))
