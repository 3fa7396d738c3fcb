"""A checkpoint never runs code unless its user says so."""

from __future__ import annotations

import argparse
import functools
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from fairdeploy.errors import ModelError, UnsafePickleError
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.inputs.pickle_safety import list_unsafe_globals, load_checkpoint
from tests.inputs.tiny_inputs import tiny_network


class RunsCommand:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class Custom(nn.Module):
    """A module class of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


def write_attack(path: Path, marker: Path, form: str) -> None:
    """A checkpoint that runs a command, in one of torch's or pickle's formats."""
    content = {"state_dict": {"weight": torch.zeros(2)}, "extra": RunsCommand(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=4))
    elif form == "old format":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(content, path, pickle_protocol=int(form[-1]))


@pytest.mark.parametrize("form", ["protocol 2", "protocol 4", "old format", "plain pickle"])
def test_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    write_attack(path, marker, form)
    with pytest.raises(UnsafePickleError, match=r"it names posix\.system.*--trust-pickle"):
        load_model(str(path))
    assert not marker.exists()


def test_the_same_attack_runs_when_it_is_trusted(tmp_path: Path) -> None:
    # Else the tests above would pass on an attack that never works.
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    write_attack(path, marker, "protocol 2")
    load_checkpoint(path, trust_pickle=True)
    assert marker.exists()


def test_listing_names_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    write_attack(path, marker, "protocol 2")
    assert list_unsafe_globals(path) == ["posix.system"]
    assert not marker.exists()


def test_own_class_is_refused_by_name_and_loads_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(Custom(), path)
    with pytest.raises(UnsafePickleError, match=r"test_pickle_safety\.Custom.*--arch"):
        load_checkpoint(path, trust_pickle=False)
    assert isinstance(load_checkpoint(path, trust_pickle=True), Custom)


def test_whole_module_of_torch_classes_loads_without_trust(tmp_path: Path) -> None:
    path, network, images = tmp_path / "model.pt", tiny_network(), torch.ones(2, 3, 8, 8)
    torch.save(network, path)
    loaded = load_checkpoint(path, trust_pickle=False)
    assert isinstance(loaded, nn.Sequential)
    assert torch.equal(loaded(images), network(images))


def test_function_of_an_allowed_package_is_refused(tmp_path: Path) -> None:
    network = tiny_network()
    network.activation = torch.nn.functional.interpolate  # type: ignore[assignment]
    torch.save(network, tmp_path / "model.pt")
    with pytest.raises(UnsafePickleError, match=r"torch\.nn\.functional\.interpolate"):
        load_checkpoint(tmp_path / "model.pt", trust_pickle=False)


def test_activation_function_is_harmless_as_a_value_but_is_not_called(tmp_path: Path) -> None:
    network = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    torch.save(network, tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt", trust_pickle=False)
    assert isinstance(loaded, nn.TransformerEncoderLayer)
    images = torch.ones(2, 3, 8)
    assert torch.equal(loaded(images), network(images))
    replace_pickle(tmp_path / "model.pt", b"\x80\x02ctorch.nn.functional\nrelu\nK\x01\x85R.")
    with pytest.raises(UnsafePickleError, match=r"calls torch\.nn\.functional\.relu"):
        load_checkpoint(tmp_path / "model.pt", trust_pickle=False)


class NamesGraphModule:
    """Pickles as the bare name of a module class whose state is source code."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return torch.fx.GraphModule, (tiny_network(), {})


def test_module_class_that_carries_source_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": NamesGraphModule()}, tmp_path / "model.pt")
    with pytest.raises(UnsafePickleError, match="GraphModule"):
        load_checkpoint(tmp_path / "model.pt", trust_pickle=False)


def test_what_an_allowed_package_merely_imports_is_refused(tmp_path: Path) -> None:
    # torch.nn.functional imports importlib: reaching through a module must not work.
    payload = b"\x80\x02ctorch.nn.functional\nimportlib\n."
    path = tmp_path / "model.pt"
    torch.save({}, path)
    replace_pickle(path, payload)
    with pytest.raises(UnsafePickleError, match=r"torch\.nn\.functional\.importlib"):
        load_checkpoint(path, trust_pickle=False)


def replace_pickle(path: Path, payload: bytes) -> None:
    """Put another pickle program into a checkpoint."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", payload, len(payload))
    writer.write_end_of_file()


def test_training_arguments_and_partials_of_classes_are_plain_data(tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(epochs=3),
        "norm": functools.partial(nn.LayerNorm, eps=1e-6),
        "state_dict": {"weight": torch.ones(2)},
    }
    torch.save(content, tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt", trust_pickle=False)
    assert isinstance(loaded, dict)
    assert loaded["args"].epochs == 3
    assert loaded["norm"](4).eps == 1e-6


def test_class_that_the_library_lacks_is_an_error_about_versions(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({}, path)
    replace_pickle(path, b"\x80\x02ctorch.nn.modules.conv\nConv9d\n.")
    with pytest.raises(ModelError, match=r"does not have; install the torch\.nn version"):
        load_checkpoint(path, trust_pickle=False)


def test_whole_module_in_the_old_format_loads(tmp_path: Path) -> None:
    path, network, images = tmp_path / "model.pt", tiny_network(), torch.ones(2, 3, 8, 8)
    torch.save(network, path, _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(path, trust_pickle=False)
    assert isinstance(loaded, nn.Sequential)
    assert torch.equal(loaded(images), network(images))


def test_trusted_file_whose_class_is_missing_says_where_to_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({}, path)
    replace_pickle(path, b"\x80\x02cno_such_module\nNet\n.")
    with pytest.raises(ModelError, match="needs a class that cannot be found: No module named"):
        load_checkpoint(path, trust_pickle=True)
