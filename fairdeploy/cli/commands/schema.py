"""``fairdeploy schema``: what a file of ours may hold, as JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from fairdeploy.settings.project_file import project_schema
from fairdeploy.settings.target_profiles import profile_schema


class Kind(StrEnum):
    """What is described."""

    PROJECT = "project"
    PROFILE = "profile"


_SCHEMAS: dict[Kind, Callable[[], dict[str, Any]]] = {
    Kind.PROJECT: project_schema,
    Kind.PROFILE: profile_schema,
}


def schema(
    kind: Annotated[Kind, typer.Argument(help="fairdeploy.toml (project) or a target profile.")],
) -> None:
    """Print the JSON Schema of a file, for editors and scripts."""
    typer.echo(json.dumps(_SCHEMAS[kind](), indent=1))
