"""What an engine was built by and for, in a file beside it.

An engine runs on the GPU and the version that it was built with and nowhere else, and TensorRT's
own refusal names neither. The file beside it leaves the engine itself as any tool expects it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fairdeploy.errors import ExportError


@dataclass(frozen=True, slots=True)
class EngineTag:
    """Library, GPU, precision, batches and source of an engine."""

    library: str
    version: str
    gpu: str
    """``NVIDIA H100 (9.0)``; "" for an engine that is finished on the device that runs it."""
    precision: str
    engine_sha256: str
    source_sha256: str = ""
    """Of the ONNX file."""
    batches: tuple[tuple[int, int, int], ...] = ()
    """Of each optimization profile: smallest, likeliest, largest; none: the batch is fixed."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def tag_path(engine: Path) -> Path:
    """``model.engine.json`` for ``model.engine``."""
    return engine.with_name(f"{engine.name}.json")


def write_tag(engine: Path, tag: EngineTag) -> Path:
    """Write the file beside the engine."""
    path = tag_path(engine)
    path.write_text(json.dumps(asdict(tag), indent=1) + "\n", encoding="utf-8")
    return path


def read_tag(engine: Path) -> EngineTag | None:
    """None where an engine has no such file, as those that others have built.

    Raises:
        ExportError: The file is damaged.
    """
    path = tag_path(engine)
    if not path.is_file():
        return None
    try:
        tag = EngineTag(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(
            f"'{path.name}' is damaged; remove it, or export the network again"
        ) from error
    return tag


def require_match(
    engine: Path, content: bytes, *, library: str, version: str, gpu: str, precision: str
) -> None:
    """Raise if the engine was built by or for something else than what is here.

    Raises:
        ExportError: Another library, version, GPU or precision, or not the tagged engine.
    """
    tag = read_tag(engine)
    if tag is None:
        return
    if (tag.library, tag.version) != (library, version):
        raise ExportError(
            f"'{engine.name}' was built by {tag.library} {tag.version} and here is {library} "
            f"{version}; build it again here, from the ONNX file"
        )
    if tag.gpu and tag.gpu != gpu:
        raise ExportError(
            f"'{engine.name}' was built for {tag.gpu} and here is {gpu or 'no GPU'}; build it "
            "again here, from the ONNX file"
        )
    if tag.precision != precision:
        raise ExportError(
            f"'{engine.name}' is {tag.precision} and the target asks for {precision}; choose "
            "another target, or export the network in that precision"
        )
    if hashlib.sha256(content).hexdigest() != tag.engine_sha256:
        raise ExportError(
            f"'{engine.name}' is not the engine that '{tag_path(engine).name}' describes; "
            "export the network again"
        )
