"""Weights that are spread over several files, with an index that says which tensor lies where.

The index is a stranger's file: it can name only plain files of its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fairdeploy.errors import ModelError
from fairdeploy.files import INDEX_ENDING
from fairdeploy.inputs.checkpoint_contents import Weights
from fairdeploy.inputs.factories import one_line

_SHARD_NAME = re.compile(r"(.+)-\d+-of-(\d+)(\.safetensors|\.bin)")
_SHARD_ENDINGS = (".safetensors", ".bin")
_MAX_INDEX_BYTES = 64 * 2**20


def weights_file(path: Path) -> Path:
    """The index, where ``path`` is a folder with one or one of the shards; else ``path``.

    Raises:
        ModelError: There is none, or more than one.
    """
    if path.is_dir():
        return _index_in(path)
    shard = _SHARD_NAME.fullmatch(path.name)
    if shard is None or not path.is_file():
        return path
    stem, count, ending = shard.groups()
    index = path.with_name(f"{stem}{ending}{INDEX_ENDING}")
    if not index.is_file():
        raise ModelError(
            f"'{path}' is one of {int(count)} parts of the weights, and their index "
            f"'{index.name}' is not beside it; copy it and the other parts there"
        )
    return index


def read_shards(index: Path, read: Callable[[Path], Mapping[str, object]]) -> Weights:
    """All tensors that an index lists.

    Args:
        index: A JSON file with a ``weight_map`` from names of tensors to names of files.
        read: Opens one of these files.

    Raises:
        ModelError: The index is malformed, or it and the files do not agree.
    """
    files = _weight_map(index)
    weights: Weights = {}
    paths = {shard: _checked_shard(index, shard) for shard in sorted(set(files.values()))}
    for shard, path in paths.items():
        held = read(path)
        for name, value in held.items():
            if files.get(name) != shard:
                where = f"in '{files[name]}'" if name in files else "nowhere"
                raise ModelError(
                    f"'{shard}' holds '{name}', which '{index}' has {where}; "
                    "copy the index and all its files from one checkpoint"
                )
            weights[name] = value
    missing = next((name for name in files if name not in weights), None)
    if missing is not None:
        raise ModelError(
            f"'{files[missing]}' lacks '{missing}', which '{index}' says it holds; "
            "copy the index and all its files from one checkpoint"
        )
    return weights


def _index_in(folder: Path) -> Path:
    try:
        names = sorted(item.name for item in folder.iterdir())
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be read: {error.strerror}") from error
    found = [name for name in names if name.endswith(INDEX_ENDING)]
    if len(found) == 1:
        return folder / found[0]
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise ModelError(
            f"'{folder}' is a distributed checkpoint; write it as one file with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"
        )
    endings = (".pt", ".pth", ".pt2", ".ckpt", ".tar", ".safetensors", ".bin", INDEX_ENDING)
    models = found or [name for name in names if name.endswith(endings)]
    hint = f", for example '{folder / models[0]}'" if models else ""
    raise ModelError(f"'{folder}' is a folder; give the model file in it{hint}")


def _weight_map(index: Path) -> dict[str, str]:
    """Names of tensors to names of files, as the index has them."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"more than {_MAX_INDEX_BYTES} bytes")
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
        files = content["weight_map"]
        if not files or not all(isinstance(item, str) for item in files.values()):
            raise ValueError("its weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"'{index}' is not an index of weights ({one_line(error, 120)}); it needs a "
            "weight_map from names of tensors to files beside it"
        ) from error
    return {str(name): str(shard) for name, shard in files.items()}


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"'{name[:80]}' comes twice")
        result[name] = value
    return result


def _checked_shard(index: Path, name: str) -> Path:
    """The file that an index names, if it is a plain file of the index's own folder."""
    path = index.parent / name
    if Path(name).name != name or not name.endswith(_SHARD_ENDINGS) or "\0" in name:
        raise ModelError(
            f"'{index}' names the file {name[:120]!r}; an index may only name .safetensors or "
            ".bin files beside it"
        )
    if not path.is_file():
        raise ModelError(
            f"'{name}', which '{index}' names, is not beside it; copy all files of the checkpoint"
        )
    folder, real = index.parent.resolve(), path.resolve()
    # The hub's cache keeps every file in blobs/ and links to it from snapshots/REVISION/.
    in_hub_cache = folder.parent.name == "snapshots" and folder.parent.parent / "blobs"
    if real.parent not in (folder, in_hub_cache):
        raise ModelError(
            f"'{path}' is a link to a file outside its folder; copy the file itself there"
        )
    return path
