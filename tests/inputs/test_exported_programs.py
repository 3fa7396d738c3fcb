"""Exported programs load with their shape; ones that would run code do not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fairdeploy.errors import ModelError, UnsafePickleError
from fairdeploy.inputs.exported_program_safety import clean_program
from fairdeploy.inputs.model_loading import load_model
from tests.inputs.test_pickle_safety import RunsCommand
from tests.inputs.tiny_inputs import tiny_network

Edit = Callable[[dict[str, bytes]], None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``.pt2`` of the tiny network with a dynamic batch."""
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        tiny_network(), (torch.zeros(2, 3, 12, 10),), dynamic_shapes=(batch,)
    )
    torch.export.save(program, path)
    return path


def edited(source: Path, target: Path, edit: Edit) -> Path:
    """A copy of an archive with some members changed."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def edit_graph(change: Callable[[dict[str, object]], None]) -> Edit:
    """An edit of the graph's JSON."""

    def edit(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        document = json.loads(members[name])
        change(document["graph_module"]["graph"])
        members[name] = json.dumps(document).encode()

    return edit


def test_exported_program_loads_in_eval_mode_with_its_input_shape(exported: Path) -> None:
    loaded = load_model(str(exported))
    images = torch.rand(3, 3, 12, 10)
    assert not loaded.is_user_class
    assert loaded.preprocessing.shape == (3, 12, 10)
    assert not any(module.training for module in loaded.module.modules())
    assert torch.equal(loaded.module(images), tiny_network()(images))


def test_exported_program_has_the_hash_of_the_module_it_came_from(
    exported: Path, tmp_path: Path
) -> None:
    torch.save(tiny_network(), tmp_path / "net.pt")
    whole = load_model(str(tmp_path / "net.pt"), input_shape=(3, 12, 10))
    assert load_model(str(exported)).sha256 == whole.sha256


def test_honest_vision_transformer_passes_the_check(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    program = torch.export.export(
        layer, (torch.zeros(2, 4, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    clean_program(tmp_path / "net.pt2")


def test_network_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    program = torch.export.export(network, (torch.zeros(2, 3, 4, 4),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"exported in training mode.*model\.eval\(\)"):
        load_model(str(tmp_path / "net.pt2"))


def operator_attack(graph: dict[str, object]) -> None:
    """Call any function of any module that torch imports."""
    graph["nodes"][0]["target"] = "torch.os.system"  # type: ignore[index]


def library_attack(graph: dict[str, object]) -> None:
    """Load machine code."""
    graph["nodes"][0]["target"] = "torch.ops.load_library"  # type: ignore[index]


def size_attack(graph: dict[str, object]) -> None:
    """Sizes are evaluated as Python expressions."""
    sizes = next(iter(graph["tensor_values"].values()))["sizes"]  # type: ignore[attr-defined]
    sizes[0] = {"as_expr": {"expr_str": "__import__('os').getcwd()", "hint": {"as_int": 2}}}


def name_attack(graph: dict[str, object]) -> None:
    """Names of inputs go into generated source."""
    graph["inputs"][-1]["as_tensor"]["name"] = "x=print(1)"  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (operator_attack, r"torch\.os\.system"),
        (library_attack, r"torch\.ops\.load_library"),
        (size_attack, "__import__"),
        (name_attack, r"x=print\(1\)"),
    ],
)
def test_graph_that_would_run_code_is_refused(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, object]], None], named: str
) -> None:
    path = edited(exported, tmp_path / "net.pt2", edit_graph(change))
    with pytest.raises(UnsafePickleError, match=f"not a plain exported program.*{named}"):
        load_model(str(path))


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_payload_that_would_run_code_is_refused(
    exported: Path, tmp_path: Path, is_zip: bool
) -> None:
    marker = tmp_path / "ran"
    torch.save(
        {"weight": RunsCommand(marker)},
        tmp_path / "payload.pt",
        _use_new_zipfile_serialization=is_zip,
    )

    def edit(members: dict[str, bytes]) -> None:
        weight = next(name for name in members if name.endswith("weights/weight_0"))
        table = next(name for name in members if name.endswith("weights_config.json"))
        members[weight] = (tmp_path / "payload.pt").read_bytes()
        members[table] = members[table].replace(b'"use_pickle": false', b'"use_pickle": true')

    path = edited(exported, tmp_path / "net.pt2", edit)
    with pytest.raises(
        UnsafePickleError, match=r"weight_0', which (names posix|cannot be checked)"
    ):
        load_model(str(path))
    assert not marker.exists()


def test_pickled_sample_inputs_are_checked_too(exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save((RunsCommand(marker),), tmp_path / "payload.pt")

    def edit(members: dict[str, bytes]) -> None:
        name = next(name for name in members if "sample_inputs" in name)
        members[name] = (tmp_path / "payload.pt").read_bytes()

    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        load_model(str(edited(exported, tmp_path / "net.pt2", edit)))
    assert not marker.exists()


def test_compiled_code_in_the_archive_is_refused(exported: Path, tmp_path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        members["net/data/aotinductor/model/kernel.so"] = b"\x7fELF"

    with pytest.raises(UnsafePickleError, match=r"the file '.*kernel\.so'"):
        load_model(str(edited(exported, tmp_path / "net.pt2", edit)))


def test_payload_of_another_kind_is_refused(exported: Path, tmp_path: Path) -> None:
    # Opaque objects are unpickled in full, whatever the table says.
    def edit(members: dict[str, bytes]) -> None:
        table = next(name for name in members if name.endswith("weights_config.json"))
        members[table] = members[table].replace(b'"weight_0"', b'"opaque_obj_0"')

    with pytest.raises(UnsafePickleError, match="'opaque_obj_0' as its path_name"):
        load_model(str(edited(exported, tmp_path / "net.pt2", edit)))


def test_damaged_exported_program_is_one_clear_line(exported: Path, tmp_path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        members[name] = members[name][:100]

    with pytest.raises(ModelError, match=r"damaged exported program; export and copy it again"):
        load_model(str(edited(exported, tmp_path / "net.pt2", edit)))
