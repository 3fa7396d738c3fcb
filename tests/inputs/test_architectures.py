"""Networks by name: timm, torchvision and the user's own factories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.inputs.architectures import build_network
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.records.architecture import parse_architecture
from tests.inputs.tiny_inputs import write_factory_file


def test_options_are_read_as_python_values_and_brackets_keep_their_commas() -> None:
    found = parse_architecture("timm:convnext_atto,depths=(2,2,4),patch_size=2,a=true,b=avg,c=1e-3")
    assert found.name == "convnext_atto"
    assert found.options == {
        "depths": (2, 2, 4),
        "patch_size": 2,
        "a": True,
        "b": "avg",
        "c": 1e-3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "'resnet18' is not an architecture; use timm:NAME, torchvision:NAME"),
        ("timm:", "'timm:' is not an architecture"),
        ("a b:c d", "'a b:c d' is not an architecture"),
        ("timm:x,depth", "'depth' in 'timm:x,depth' is not an option; write key=value"),
    ],
)
def test_text_that_is_no_architecture_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_architecture(text)


def test_timm_network_brings_its_input_format_and_is_seeded() -> None:
    one = load_model("timm:resnet10t", seed=1)
    same = load_model("timm:resnet10t", seed=1)
    other = load_model("timm:resnet10t", seed=2)
    assert one.sha256 == same.sha256 != other.sha256
    assert one.preprocessing.shape == (3, 176, 176)
    assert one.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "has random weights" in one.warnings[0]


def test_random_timm_resnet_has_residual_branches_that_do_something() -> None:
    scale = load_model("timm:resnet10t").module.get_parameter("layer1.0.bn2.weight")
    assert bool((scale != 0).all())


def test_image_size_option_of_a_transformer_sets_the_input_shape() -> None:
    loaded = load_model("timm:deit_tiny_patch16_224,img_size=32,patch_size=8,depth=1,num_classes=4")
    assert loaded.preprocessing.shape == (3, 32, 32)
    assert loaded.module(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_grey_scale_variant_averages_the_normalisation() -> None:
    loaded = load_model("timm:resnet10t,in_chans=1")
    assert loaded.preprocessing.channels == 1
    assert loaded.preprocessing.mean == pytest.approx((0.449,))


def test_whole_timm_and_torchvision_modules_load_from_a_pickle(tmp_path: Path) -> None:
    for source in ("timm:resnet10t", "torchvision:shufflenet_v2_x0_5"):
        loaded = load_model(source)
        torch.save(loaded.module, tmp_path / "model.pt")
        again = load_model(str(tmp_path / "model.pt"))
        images = torch.ones(1, *loaded.preprocessing.shape)
        assert again.preprocessing == loaded.preprocessing
        assert again.sha256 == loaded.sha256
        assert torch.equal(again.module(images), loaded.module(images))


def test_state_dict_of_a_timm_network_infers_its_classes(tmp_path: Path) -> None:
    network = load_model("timm:resnet10t", num_classes=7).module
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_model(str(tmp_path / "model.pt"), arch="timm:resnet10t")
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_googlenet_is_built_without_its_training_heads() -> None:
    loaded = load_model("torchvision:googlenet")
    assert not any(name.startswith("aux") for name in loaded.module.state_dict())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet10x", r"has no model 'resnet10x'; did you mean resnet10t"),
        ("torchvision:resnet180", r"torchvision has no model 'resnet180'; did you mean resnet18"),
        ("timm:resnet10t,wings=2", r"building 'timm:resnet10t,wings=2' fails with TypeError"),
    ],
)
def test_unknown_names_and_options_are_one_line(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "has no 'absent'; name a function or class"),
        ("not_a_network", r"returned a int; it must return a torch\.nn\.Module"),
        ("fails", "fails with KeyError: 'weights table'"),
        ("torch", "is a module; name a function or class"),
    ],
)
def test_bad_factories_are_named(tmp_path: Path, name: str, message: str) -> None:
    architecture = parse_architecture(f"{write_factory_file(tmp_path)}:{name}")
    with pytest.raises(ModelError, match=message):
        build_network(architecture, num_classes=None, seed=0)


def test_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no module 'no_such_package'"):
        build_network(parse_architecture("no_such_package.nets:make"), num_classes=None, seed=0)
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(ModelError, match="fails with ZeroDivisionError: division by zero"):
        build_network(parse_architecture(f"{broken}:make"), num_classes=None, seed=0)


def test_number_of_classes_goes_only_to_factories_that_take_it(tmp_path: Path) -> None:
    path = write_factory_file(tmp_path)
    taking = build_network(parse_architecture(f"{path}:network"), num_classes=3, seed=0)
    ignoring = build_network(parse_architecture(f"{path}:Own"), num_classes=3, seed=0)
    assert taking(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert ignoring.get_parameter("linear.weight").shape == (2, 2)


def test_named_network_with_an_architecture_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="names its own architecture; leave --arch timm:a out"):
        load_model("timm:resnet10t", arch="timm:a")
