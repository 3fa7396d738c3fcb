"""What can go from a network, what can't, and why: the document behind ``fairdeploy inspect``."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fairdeploy.allocation.cost import CostModel
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.options import ModelOptions
from fairdeploy.progress import Progress, SilentProgress
from fairdeploy.records import LoadedModel
from fairdeploy.settings import project_of, resolve_model
from fairdeploy.stages import capture_network, group_sizes, load_network
from fairdeploy.stopwatch import Stopwatch


def inspect(options: ModelOptions, progress: Progress | None = None) -> dict[str, object]:
    """Load a network and describe its units.

    Returns:
        A dictionary for ``--json``: ``model``, ``cost`` (original, smallest and removable share by
        metric), ``groups``, ``frozen`` and ``freezes``.

    Raises:
        FairdeployError: The network can't be loaded or traced.
    """
    settings = resolve_model(options, project_of(options.model))
    watch = Stopwatch(progress or SilentProgress())
    model = load_network(settings, watch)
    graph = capture_network(model, watch, allow_norm_coupled=settings.allow_norm_coupled)
    return inspection_document(model, graph)


def inspection_document(model: LoadedModel, graph: UnitGraph) -> dict[str, object]:
    """The document for a network that is captured already."""
    costs = CostModel(graph.cost_terms, len(graph.groups))
    sizes = group_sizes(graph)
    original, smallest = costs.cost(sizes), costs.cost(np.minimum(sizes, 1))
    return {
        "model": {
            "name": model.name,
            "source": model.source,
            "input_shape": list(model.preprocessing.shape),
            "dynamic_batch": graph.has_dynamic_batch,
        },
        "cost": {
            metric: {
                "original": original[metric],
                "smallest": smallest[metric],
                "removable_share": removable_share(original[metric], smallest[metric]),
            }
            for metric in original
        },
        "units": graph.num_units,
        "groups": [_group_row(group, costs, sizes, index) for index, group in
                   enumerate(graph.groups)],
        "frozen": [
            {"name": group.name, "units": group.size, "reason": group.reason,
             "tensors": list(group.tensors)}
            for group in graph.frozen_groups
        ],
        "freezes": [
            {"op": freeze.op, "module": freeze.module_path, "reason": freeze.reason,
             "source_line": freeze.source_line, "units": freeze.num_units,
             "unknown_op": freeze.is_unknown_op}
            for freeze in graph.freezes
        ],
        "unknown_ops": dict(Counter(f.op for f in graph.freezes if f.is_unknown_op)),
    }  # fmt: skip


def removable_share(original: float, smallest: float) -> float:
    """How much of the original could go at most."""
    return 1.0 - smallest / original if original else 0.0


def _group_row(group: Group, costs: CostModel, sizes: np.ndarray, index: int) -> dict[str, object]:
    """A group, and what it would save alone if only one unit of it stayed."""
    alone = sizes.copy()
    alone[index] = 1
    saved = costs.cost(sizes)["params"] - costs.cost(alone)["params"]
    return {
        "name": group.name,
        "units": group.size,
        "removable_params": saved,
        "members": [
            {"tensor": member.tensor, "dim": member.dim, "role": member.role,
             "indices_per_unit": int(member.positions.shape[1])}
            for member in group.members
        ],
    }  # fmt: skip
