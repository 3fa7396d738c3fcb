"""No checkpoint runs code, takes memory it does not hold, or ends in more than one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fairdeploy.cli.app import run
from fairdeploy.errors import FairdeployError
from fairdeploy.inputs.model_loading import load_model
from tests.inputs.tiny_inputs import write_factory_file
from tests.security.hostile_checkpoints import all_pickles, weights
from tests.security.pickle_programs import CANARY

_PICKLES = dict(all_pickles())
_WEIGHTS = {label: (suffix, content) for label, suffix, content in weights()}
_THROUGH_THE_COMMAND_LINE = sorted(_PICKLES)[::9]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(source: Path, arch: str | None = None) -> str:
    """The one line that loading a file ends in."""
    with pytest.raises(FairdeployError) as caught:
        load_model(str(source), arch=arch, input_shape=(3, 8, 8))
    line = str(caught.value)
    assert not Path(CANARY).exists()
    assert line.isprintable()
    assert len(line) < 2_000
    assert caught.value.exit_code in (1, 2)
    return line


@pytest.mark.parametrize("label", _PICKLES)
def test_hostile_checkpoint_is_refused_in_one_line(label: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(_PICKLES[label])
    refused(path)


@pytest.mark.parametrize("label", _WEIGHTS)
def test_weights_with_names_that_are_none_are_refused_in_one_line(
    label: str, tmp_path: Path
) -> None:
    suffix, content = _WEIGHTS[label]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refused(path, arch=f"{write_factory_file(tmp_path)}:network")


def _with(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _padded() -> nn.Module:
    layer = nn.Conv2d(4, 4, 3)
    layer.padding = (10**6, 10**6)
    return layer


@pytest.mark.parametrize(
    "layer", [nn.Upsample(scale_factor=1e4), _padded(), nn.AdaptiveAvgPool2d(10**5)]
)
def test_layers_that_no_memory_holds_are_refused_before_they_run(
    layer: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_with(layer), "model.pt")
    assert run(["inspect", "model.pt", "--input-size", "3,8,8", "--prove"]) == 1
    assert "which no memory holds" in capsys.readouterr().err


def test_image_size_that_no_memory_holds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    network = _with(nn.ReLU())
    network.pretrained_cfg = {"input_size": (3, 10**6, 10**6)}  # type: ignore[assignment]
    torch.save(network, "model.pt")
    assert run(["inspect", "model.pt"]) == 2
    assert "more than can be worked with" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("conv-1", "3x3"), ("α", "0"), ("c" * 120, "_private")])
def test_names_as_real_networks_have_them_load(names: tuple[str, str]) -> None:
    network = nn.Sequential()
    network.add_module(names[0], nn.Conv2d(3, 4, 3))
    network.add_module(names[1], nn.ReLU())
    torch.save(network, "model.pt")
    loaded = load_model("model.pt", input_shape=(3, 8, 8))
    assert [name for name, _ in loaded.module.named_children()] == list(names)


@pytest.mark.parametrize("label", _THROUGH_THE_COMMAND_LINE)
def test_command_line_prints_one_line_and_no_traceback(
    label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pt").write_bytes(_PICKLES[label])
    code = run(["inspect", "model.pt", "--input-size", "3,8,8", "--prove"])
    errors = capsys.readouterr().err
    assert code in (1, 2)
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not Path(CANARY).exists()
