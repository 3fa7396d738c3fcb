"""Weights in several files load by their index, which can name nothing but files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fairdeploy.errors import ModelError
from fairdeploy.inputs.model_loading import load_model
from tests.inputs.tiny_inputs import tiny_network, write_factory_file

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write_shards(folder: Path) -> dict[str, str]:
    """The tiny network in two files with their index; returns the index's map."""
    folder.mkdir(exist_ok=True)
    weights = tiny_network().state_dict()
    files = {name: FIRST if name.startswith("0.") else SECOND for name in weights}
    for file in (FIRST, SECOND):
        save_file({n: v for n, v in weights.items() if files[n] == file}, folder / file)
    write_index(folder, files)
    return files


def write_index(folder: Path, files: dict[str, Any]) -> None:
    """An index with this map."""
    content = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(content))


def load(path: Path, folder: Path) -> torch.Tensor:
    """The first weights after loading ``path``."""
    arch = f"{write_factory_file(folder)}:network"
    return load_model(str(path), arch=arch, input_shape=8).module.get_parameter("0.weight")


@pytest.mark.parametrize("given", [INDEX, FIRST, SECOND, ""])
def test_shards_load_from_the_index_one_of_them_or_their_folder(tmp_path: Path, given: str) -> None:
    write_shards(tmp_path / "w")
    expected = tiny_network().get_parameter("0.weight")
    assert torch.equal(load(tmp_path / "w" / given, tmp_path), expected)


def test_shards_of_pickles_load_too(tmp_path: Path) -> None:
    weights = tiny_network().state_dict()
    name = "pytorch_model-00001-of-00001.bin"
    torch.save(weights, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weights, name)}))
    assert torch.equal(load(index, tmp_path), weights["0.weight"])


def test_links_of_the_hub_s_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    write_shards(tmp_path / "snapshots")
    folder = tmp_path / "snapshots" / "abc"
    (tmp_path / "blobs").mkdir()
    folder.mkdir()
    for name in (FIRST, SECOND, INDEX):
        (tmp_path / "snapshots" / name).rename(tmp_path / "blobs" / name)
        (folder / name).symlink_to(f"../../blobs/{name}")
    assert load(folder / INDEX, tmp_path).shape == (4, 3, 3, 3)
    outside = tmp_path / "secret.safetensors"
    (tmp_path / "blobs" / FIRST).rename(outside)
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to(outside)
    with pytest.raises(ModelError, match="is a link to a file outside its folder"):
        load(folder / INDEX, tmp_path)


@pytest.mark.parametrize(
    "name", ["../" + FIRST, "/etc/passwd", "sub/" + FIRST, "..", "", "a\0.safetensors", "x.py"]
)
def test_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    files = write_shards(tmp_path / "w")
    write_index(tmp_path / "w", files | {"0.weight": name})
    with pytest.raises(ModelError, match="may only name") as caught:
        load(tmp_path / "w" / INDEX, tmp_path)
    assert "\n" not in str(caught.value)


def _drop_file(folder: Path, files: dict[str, str]) -> None:
    (folder / SECOND).unlink()


def _drop_tensor(folder: Path, files: dict[str, str]) -> None:
    write_index(folder, files | {"more": FIRST})


def _swap(folder: Path, files: dict[str, str]) -> None:
    write_index(folder, files | {"0.bias": SECOND})


def _forget(folder: Path, files: dict[str, str]) -> None:
    write_index(folder, {name: file for name, file in files.items() if name != "0.bias"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_file, f"'{SECOND}', which .* names, is not beside it"),
        (_drop_tensor, f"'{FIRST}' lacks 'more', which"),
        (_swap, f"'{FIRST}' holds '0.bias', which .* has in '{SECOND}'"),
        (_forget, f"'{FIRST}' holds '0.bias', which .* has nowhere"),
    ],
)
def test_index_that_disagrees_with_its_files_is_one_line(
    tmp_path: Path, spoil: Callable[[Path, dict[str, str]], None], message: str
) -> None:
    spoil(tmp_path / "w", write_shards(tmp_path / "w"))
    with pytest.raises(ModelError, match=message) as caught:
        load(tmp_path / "w" / INDEX, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "[" * 100_000, "\udcff",
    ],
)  # fmt: skip
def test_malformed_index_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="is not an index of weights") as caught:
        load(tmp_path / INDEX, tmp_path)
    assert "\n" not in str(caught.value)


def test_shard_without_its_index_says_what_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(
        ModelError, match=f"one of 2 parts of the weights, and their index '{INDEX}"
    ):
        load(tmp_path / FIRST, tmp_path)


def test_distributed_checkpoint_says_how_to_make_one_file_of_it(tmp_path: Path) -> None:
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="is a distributed checkpoint; write it as one file"):
        load_model(str(tmp_path))


def test_folder_without_an_index_names_a_file_to_give(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"give the model file in it, for example '.*last\.ckpt'"):
        load_model(str(tmp_path))
