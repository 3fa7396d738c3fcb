"""The plan: which units go. A small JSON file; with the original it rebuilds the network."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import PlanError, UsageError
from fairdeploy.files import read_regular_text
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records.input_specs import InputSpec, parse_inputs
from fairdeploy.records.method import ATTENTION_OPTIONS, AttentionOption, choice_of

SCHEMA_VERSION = 1
BLOCKS_VERSION = 2
"""Of plans whose groups are residual blocks too, which fairdeploy 0.1 and older cannot read."""
# A plan from elsewhere must not make its reader take all memory.
_MAX_IMAGE_ELEMENTS = 2**28
_MAX_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """Removed units by group, and enough to check that the plan fits a model."""

    model_name: str
    model_sha256: str
    input_shape: tuple[int, ...]
    """Of one image, [C, H, W], or of what else the main input takes."""
    tolerance: float
    attention: AttentionOption
    """What could go from attention; the groups depend on it."""
    group_sizes: Mapping[str, int]
    """Units of each group; of all blocks, if it has several."""
    removed: Mapping[str, tuple[int, ...]]
    """Group name to the local numbers of the units that go; groups that lose none are left out."""
    allow_norm_coupled: bool = False
    """Whether the groups hold channels that layer norms take their statistics over."""
    blocks: bool = False
    """Whether residual branches, which may go as a whole, are groups of one unit too."""
    inputs: tuple[InputSpec, ...] = ()
    """As the user described them; empty for one image and nothing else."""
    fixed_batch: int | None = None
    """The only number of images that it takes at a time; None: any."""

    @property
    def is_input_named(self) -> bool:
        """Whether the user has named the inputs."""
        return bool(self.inputs)

    def to_json(self) -> str:
        """The same plan gives the same text, byte for byte."""
        document = {
            "schema_version": BLOCKS_VERSION if self.blocks else SCHEMA_VERSION,
            "model": {"name": self.model_name, "sha256": self.model_sha256},
            "input_shape": list(self.input_shape),
            "inputs": [str(spec) for spec in self.inputs],
            "fixed_batch": self.fixed_batch,
            "tolerance": self.tolerance,
            "attention": self.attention,
            "allow_norm_coupled": self.allow_norm_coupled,
            **({"blocks": True} if self.blocks else {}),
            "groups": [
                {"name": name, "units": size, "removed": list(self.removed.get(name, ()))}
                for name, size in self.group_sizes.items()
            ],
        }
        return json.dumps(document, indent=1) + "\n"

    def metadata(self) -> dict[str, str]:
        """What an exported file carries about its origin."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()
        return {"fairdeploy.model": self.model_name, "fairdeploy.plan_sha256": digest}

    def removed_mask(self, graph: UnitGraph) -> NDArray[np.bool_]:
        """Boolean over the graph's units.

        Raises:
            PlanError: The graph has other groups than the plan was made for.
        """
        sizes = {group.name: group.blocks.size for group in graph.groups}
        if sizes != dict(self.group_sizes):
            different = sorted(set(sizes.items()) ^ set(self.group_sizes.items()))
            raise PlanError(
                f"the plan is for another model: group '{different[0][0]}' differs; "
                f"it was made for '{self.model_name}' with input {list(self.input_shape)}"
            )
        removed = graph.removed_mask(self.removed)
        for group in graph.groups:
            numbers = removed[group.blocks].sum(axis=1)
            if (numbers != numbers[0]).any() or numbers[0] > group.most_removed:
                limit = group.most_removed + 1
                raise PlanError(
                    f"the plan takes {numbers.tolist()} units from the {group.num_blocks} blocks "
                    f"of group '{group.name}'; each must lose the same number, below {limit}"
                )
        return removed


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        PlanError: The file is missing, not JSON, or not a plan of this version.
    """
    try:
        document = json.loads(read_regular_text(path))
    except OSError as error:
        raise PlanError(f"cannot read plan '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"'{path}' is not JSON: {error}") from error
    return _plan_from(document, path)


def _attention(text: object) -> AttentionOption:
    option = choice_of(text, ATTENTION_OPTIONS)
    if option is None:
        raise ValueError(f"attention {text!r}")
    return option


def _input_shape(lengths: Any) -> tuple[int, ...]:
    shape = tuple(int(length) for length in lengths)
    if not shape or min(shape) < 1 or math.prod(shape) > _MAX_IMAGE_ELEMENTS:
        raise ValueError(f"input shape {list(shape)}")
    return shape


def _fixed_batch(value: Any) -> int | None:
    batch = None if value is None else max(1, int(value))
    if batch is not None and batch > _MAX_BATCH:
        raise ValueError(f"batch {batch}")
    return batch


def _plan_from(document: Any, path: Path) -> Plan:
    try:
        if document["schema_version"] not in (SCHEMA_VERSION, BLOCKS_VERSION):
            raise PlanError(
                f"'{path}' has plan version {document['schema_version']!r}; "
                f"this fairdeploy reads versions {SCHEMA_VERSION} and {BLOCKS_VERSION}"
            )
        groups = document["groups"]
        plan = Plan(
            model_name=str(document["model"]["name"]),
            model_sha256=str(document["model"]["sha256"]),
            input_shape=_input_shape(document["input_shape"]),
            tolerance=float(document["tolerance"]),
            attention=_attention(document.get("attention", "heads")),
            group_sizes={str(group["name"]): int(group["units"]) for group in groups},
            removed={
                str(group["name"]): tuple(int(unit) for unit in group["removed"])
                for group in groups
                if group["removed"]
            },
            allow_norm_coupled=bool(document.get("allow_norm_coupled", False)),
            blocks=bool(document.get("blocks", False)),
            inputs=parse_inputs(str(text) for text in document.get("inputs", ())),
            fixed_batch=_fixed_batch(document.get("fixed_batch")),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise PlanError(f"'{path}' is not a plan: {type(error).__name__} at {error}") from error
    for name, units in plan.removed.items():
        size = plan.group_sizes[name]
        if len(set(units)) != len(units) or min(units) < 0 or max(units) >= size:
            raise PlanError(f"'{path}': group '{name}' has {size} units, numbered from 0")
        if len(units) >= size and not (plan.blocks and size == 1):  # a block goes as a whole
            raise PlanError(f"'{path}': group '{name}' would lose all of its {size} units")
    return plan
