"""A checkpoint with several sets of weights: which is taken, what is said, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.records import LoadedModel

FACTORY = """
from torch import nn

def network(num_classes=3):
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = network()[:4]
        self.classifier = nn.Linear(4, 3)
    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
    def forward(self, x):
        return self.inner(x)

class Counted(nn.Conv2d):
    def get_extra_state(self): return {"calls": 3}
    def set_extra_state(self, state): self.calls = state["calls"]

def counted():
    return nn.Sequential(Counted(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
PLAIN, AVERAGED = 1.0, 2.0


def network(num_classes: int = 3) -> nn.Sequential:
    """What ``FACTORY`` builds."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, num_classes),
    )  # fmt: skip


def filled(value: float, module: nn.Module | None = None) -> dict[str, Any]:
    """Weights that are all ``value``, so that they can be told apart."""
    state = (module or network()).state_dict()
    return {name: torch.full_like(tensor, value) for name, tensor in state.items()}


def under(prefix: str, weights: dict[str, Any]) -> dict[str, Any]:
    """The same with a prefix before each name."""
    return {prefix + name: value for name, value in weights.items()}


def load(folder: Path, content: object, factory: str = "network", **options: Any) -> LoadedModel:
    """Save ``content`` and load it as the network of ``FACTORY``."""
    (folder / "nets.py").write_text(FACTORY)
    torch.save(content, folder / "model.pt")
    arch = f"{folder / 'nets.py'}:{factory}"
    return load_model(str(folder / "model.pt"), arch=arch, input_shape=(1, 8, 8), **options)


def value_of(loaded: LoadedModel) -> float:
    """The number that all loaded weights have."""
    values = {v for tensor in loaded.module.parameters() for v in tensor.flatten().tolist()}
    assert len(values) == 1
    return values.pop()


def averaged_state() -> dict[str, Tensor]:
    """What ``AveragedModel`` saves after one update."""
    module = network()
    module.load_state_dict(filled(AVERAGED))
    average = AveragedModel(module)
    average.update_parameters(module)
    return average.state_dict()


PAIRS: dict[str, Callable[[], dict[str, Any]]] = {
    "timm": lambda: {"state_dict": filled(PLAIN), "state_dict_ema": filled(AVERAGED)},
    "torchvision": lambda: {"model": filled(PLAIN), "model_ema": averaged_state(), "args": None},
    "basicsr": lambda: {"params": filled(PLAIN), "params_ema": filled(AVERAGED)},
    "rt-detr": lambda: {
        "model": filled(PLAIN),
        "ema": {"module": filled(AVERAGED), "updates": 9},
        "optimizer": {},
    },
    "stylegan": lambda: {"G": filled(PLAIN), "D": {}, "G_ema": filled(AVERAGED)},
    "camel case": lambda: {"net": filled(PLAIN), "modelEMA": under("module.", filled(AVERAGED))},
    "inside": lambda: {
        "state_dict": under("net.", filled(PLAIN)) | under("net_ema.module.", filled(AVERAGED))
    },
    "plain beside": lambda: filled(PLAIN) | {"ema_state": filled(AVERAGED), "epoch": 3},
    "mmengine": lambda: {
        "meta": {"mmengine_version": "0.10"},
        "state_dict": filled(AVERAGED),
        "ema_state_dict": {**under("module.", filled(PLAIN)), "steps": torch.tensor(4)},
    },
    "lightning": lambda: {
        "state_dict": under("model.", filled(AVERAGED)),
        "current_model_state": under("model.", filled(PLAIN)),
        "averaging_state": {"n_averaged": torch.tensor(4)},
    },
}


@pytest.mark.parametrize("kind", PAIRS)
def test_averaged_weights_are_taken_and_the_others_are_named(tmp_path: Path, kind: str) -> None:
    loaded = load(tmp_path, PAIRS[kind]())
    assert value_of(loaded) == AVERAGED
    assert "(averaged)" in loaded.weights
    (note,) = [text for text in loaded.warnings if text.startswith("weights: ")]
    wanted = note.split("--weights ")[1].split(";")[0]
    assert f"{wanted} is there too" in note
    assert value_of(load(tmp_path, PAIRS[kind](), weights=wanted)) == PLAIN


@pytest.mark.parametrize("kind", ["timm", "rt-detr", "mmengine"])
def test_choice_of_weights_changes_the_fingerprint(tmp_path: Path, kind: str) -> None:
    averaged, plain = (
        load(tmp_path, PAIRS[kind](), weights=key)
        for key in (None, "model" if kind == "rt-detr" else
                    "ema_state_dict" if kind == "mmengine" else "state_dict")
    )  # fmt: skip
    assert averaged.sha256 != plain.sha256


ALONE: dict[str, tuple[Callable[[], Any], str]] = {
    "ema only": (lambda: {"params_ema": filled(AVERAGED)}, "params_ema (averaged)"),
    "empty model": (lambda: {"model": None, "ema": filled(AVERAGED)}, "ema (averaged)"),
    "averaged model": (averaged_state, "averaged"),
    "epoch beside": (lambda: under("module.", filled(2.0)) | {"epoch": 5}, ""),
    "lightning": (
        lambda: {
            "state_dict": under("model.", filled(2.0)) | {"criterion.pos_weight": torch.ones(3)},
            "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {0: torch.ones(2)}}],
        },
        "state_dict.model",
    ),
    "criterion beside": (
        lambda: {"state_dict": filled(2.0) | {"criterion.weight": torch.ones(3)}}, "state_dict"
    ),
    "own prefix": (lambda: {"state_dict": under("a.b.", filled(2.0))}, "state_dict.a.b"),
    "gan": (lambda: {"generator": filled(2.0), "discriminator": {}}, "generator"),
    "two networks": (
        lambda: {"netG": filled(2.0), "netD": filled(3.0, nn.Linear(9, 2))}, "netG"
    ),
    "deepspeed": (lambda: {"module": filled(2.0), "buffer_names": ["a"]}, "module"),
    "compiled": (lambda: {"model": under("module._orig_mod.", filled(2.0))}, "model"),
    "compiled part": (
        lambda: {name.replace("0.", "0._orig_mod."): v for name, v in filled(2.0).items()}, ""
    ),
    "thop": (
        lambda: filled(2.0) | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, ""
    ),
    "frozen average": (
        lambda: {"model": filled(2.0), "ema": {**under("module.", filled(0.5)),
                 "n_averaged": torch.tensor(0)}}, "model",
    ),
    "ensemble": (lambda: {"models": [filled(2.0)]}, "models.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALONE)
def test_weights_are_found_wherever_a_trainer_put_them(tmp_path: Path, kind: str) -> None:
    content, label = ALONE[kind]
    loaded = load(tmp_path, content())
    assert value_of(loaded) == AVERAGED
    assert loaded.weights == label


def test_data_parallel_part_of_a_network_loads(tmp_path: Path) -> None:
    parts = {name: value for name, value in filled(2.0).items() if not name.startswith("5")}
    head = {"classifier.weight": torch.full((3, 4), 2.0), "classifier.bias": torch.full((3,), 2.0)}
    assert value_of(load(tmp_path, under("features.module.", parts) | head, "Wrapped")) == AVERAGED


def test_backbone_and_head_are_joined_where_that_is_the_network(tmp_path: Path) -> None:
    weights = filled(2.0)
    parts = {("head." if n.startswith("5") else "backbone.") + n: v for n, v in weights.items()}
    loaded = load(tmp_path, {"meta": {}, "state_dict": parts})
    assert value_of(loaded) == AVERAGED
    assert any("without the prefixes backbone., head." in text for text in loaded.warnings)


def test_network_that_wraps_the_saved_one_takes_its_weights(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"state_dict": filled(2.0)}, "Around")
    assert value_of(loaded) == AVERAGED
    assert any("with the prefix inner. of the network" in text for text in loaded.warnings)


def test_averages_of_parameters_alone_are_completed_with_the_buffers(tmp_path: Path) -> None:
    shadow = {n: v for n, v in filled(AVERAGED).items() if "running" not in n and "num" not in n}
    loaded = load(tmp_path, {"model": filled(PLAIN), "ema": {"shadow": shadow, "decay": 0.9}})
    assert value_of(loaded) == AVERAGED
    assert set(loaded.module.get_buffer("1.running_mean").tolist()) == {PLAIN}
    assert any("buffers are those of model" in text for text in loaded.warnings)


def test_averages_whose_names_lost_their_dots_are_read(tmp_path: Path) -> None:
    flat = {f"model_ema.{n.replace('.', '')}": v for n, v in filled(AVERAGED).items()}
    flat |= {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    loaded = load(tmp_path, {"state_dict": under("model.", filled(PLAIN)) | flat})
    assert value_of(loaded) == AVERAGED


def test_averages_that_do_not_fit_are_named_and_the_plain_weights_taken(tmp_path: Path) -> None:
    other = filled(AVERAGED)
    other["0.weight"] = torch.ones(9, 1, 3, 3)
    loaded = load(tmp_path, {"model": filled(PLAIN), "model_ema": other})
    assert value_of(loaded) == PLAIN
    assert any("model_ema is not used" in text for text in loaded.warnings)


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        ({"state_dict": under("student.", filled(1.0)) | under("teacher.", filled(2.0))},
         "state_dict.student", "state_dict.teacher"),
        ({"last": filled(1.0), "best": filled(2.0)}, "last", "best"),
        ({"ema_0.999": filled(1.0), "ema_0.9999": filled(2.0)}, "ema_0.999", "ema_0.9999"),
        (under("encoder_q.", filled(1.0)) | under("encoder_k.", filled(2.0)),
         "encoder_q", "encoder_k"),
    ],
)  # fmt: skip
def test_two_sets_of_equal_standing_are_the_user_s_to_choose(
    tmp_path: Path, content: dict[str, Any], first: str, second: str
) -> None:
    with pytest.raises(ModelError, match="2 sets of weights that fit") as caught:
        load(tmp_path, content)
    assert f"--weights {first} or --weights {second}" in str(caught.value)
    assert value_of(load(tmp_path, content, weights=first)) == 1.0
    assert value_of(load(tmp_path, content, weights=second)) == 2.0
    assert value_of(load(tmp_path, content, weights=second.rpartition("state_dict.")[2])) == 2.0


def test_two_sets_with_the_same_values_load_and_it_is_said(tmp_path: Path) -> None:
    content = under("student.", filled(2.0)) | under("teacher.", filled(2.0))
    loaded = load(tmp_path, content)
    assert any("teacher is there too, with the same values" in text for text in loaded.warnings)


def test_unknown_key_lists_what_there_is_and_the_nearest(tmp_path: Path) -> None:
    content = {"params": filled(1.0), "params_ema": filled(2.0)}
    with pytest.raises(UsageError, match=r"it has params, params_ema; did you mean 'params_ema'"):
        load(tmp_path, content, weights="param_ema")
    with pytest.raises(UsageError, match="holds one set of weights; leave --weights model out"):
        load_model("timm:resnet10t", weights="model")


def test_refusal_shows_the_file_s_own_names_and_the_nearest(tmp_path: Path) -> None:
    weights = filled(2.0)
    weights["5_head.weight"] = weights.pop("5.weight")
    with pytest.raises(ModelError) as caught:
        load(tmp_path, {"net": weights, "optimizer": {}, "epoch": 3})
    text = str(caught.value)
    assert "the file lacks '5.weight' [3, 4]; the network lacks '5_head.weight' [3, 4]" in text
    assert "nearest names: '5_head.weight' for '5.weight'" in text
    assert "the file holds net (8 tensors: 0., 1., 5., 5_head.)" in text
    assert "\n" not in text


def test_another_architecture_is_refused_with_the_prefixes_of_the_file(tmp_path: Path) -> None:
    other = under("backbone.", filled(1.0, nn.Linear(7, 7))) | {"neck.w": torch.ones(2)}
    with pytest.raises(ModelError, match=r"state_dict \(3 tensors: backbone\., neck\.\)"):
        load(tmp_path, {"state_dict": other})


def test_checkpoint_without_weights_lists_its_keys(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its keys are epoch, optimizer; save"):
        load(tmp_path, {"epoch": 3, "optimizer": {"state": {"a": torch.ones(2)}}})


def test_number_of_classes_is_inferred_below_a_prefix_too(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"state_dict": under("model.", filled(2.0, network(7)))})
    assert loaded.module.get_parameter("5.bias").shape == (7,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_state_becomes_float32_and_it_is_said(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    halves = {n: v.to(dtype) if v.is_floating_point() else v for n, v in filled(2.0).items()}
    loaded = load(tmp_path, {"model": halves})
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert f"weights in {dtype} became float32" in loaded.warnings


def test_states_that_are_no_tensors_load(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    names = {"0.weight": (4, 1, 3, 3), "0.bias": (4,), "3.weight": (3, 4), "3.bias": (3,)}
    weights: dict[str, Any] = {name: torch.full(shape, 2.0) for name, shape in names.items()}
    loaded = load(tmp_path, {**weights, "0._extra_state": {"calls": 5}}, "counted")
    assert value_of(loaded) == AVERAGED
    assert getattr(loaded.module, "0").calls == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("5._packed_params._packed_params", (torch.ones(3, 4), None)),
        ("5._packed_params.dtype", torch.qint8),
        ("0.weight_fake_quant.scale", torch.ones(1)),
        ("5.weight", torch.ones(3, 4, dtype=torch.int8)),
    ],
)
def test_quantised_checkpoints_are_named_as_such(tmp_path: Path, name: str, value: Any) -> None:
    weights = {n: v for n, v in filled(2.0).items() if not n.startswith("5.")}
    with pytest.raises(ModelError, match=f"holds a quantised network \\('{name}'\\)"):
        load(tmp_path, {"state_dict": {**weights, name: value}})


def test_tensors_of_quantised_checkpoints_are_named_as_such_too(tmp_path: Path) -> None:
    ones = torch.ones(3, 4)
    weights = {**filled(2.0), "5.weight": torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8)}
    with pytest.raises(ModelError, match=r"holds a quantised network .*before the quantisation"):
        load(tmp_path, weights)


def whole(value: float) -> nn.Sequential:
    """The network with all weights at ``value``."""
    module = network()
    module.load_state_dict(filled(value))
    return module


def test_whole_networks_give_the_averaged_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": whole(PLAIN), "ema": whole(AVERAGED).half(), "updates": 3}, path)
    loaded = load_model(str(path), input_shape=(1, 8, 8))
    assert value_of(loaded) == AVERAGED
    assert value_of(load_model(str(path), input_shape=(1, 8, 8), weights="model")) == PLAIN
    torch.save({"model": None, "ema": whole(AVERAGED).half(), "train_args": {}}, path)
    assert value_of(load_model(str(path), input_shape=(1, 8, 8))) == AVERAGED


def test_averaged_weights_beside_a_whole_network_go_into_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": whole(PLAIN), "state_dict_ema": filled(AVERAGED)}, path)
    assert value_of(load_model(str(path), input_shape=(1, 8, 8))) == AVERAGED


def test_several_whole_networks_are_the_user_s_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"D": nn.Sequential(nn.Linear(4, 1)), "G": whole(2.0)}, path)
    with pytest.raises(ModelError, match="several networks: D, G; choose with --weights D"):
        load_model(str(path), input_shape=(1, 8, 8))
    assert value_of(load_model(str(path), input_shape=(1, 8, 8), weights="G")) == 2.0


def test_whole_wrappers_are_unwrapped_when_the_pickle_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for wrapper in (AveragedModel(whole(2.0)), nn.DataParallel(AveragedModel(whole(2.0)))):
        torch.save(wrapper, path)
        loaded = load_model(str(path), input_shape=(1, 8, 8), trust_pickle=True)
        assert type(loaded.module) is nn.Sequential
        assert value_of(loaded) == 2.0
