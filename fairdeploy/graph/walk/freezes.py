"""What could not be made removable, where in the user's code, and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from fairdeploy.graph.call_facts import fetch_tensor, module_path
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import Freeze, FrozenGroup
from fairdeploy.graph.walk.groups import Entries
from fairdeploy.graph.walk.labels import NO_REASON
from fairdeploy.graph.walk.propagation import SIZE_FROM_DATA, UNREMARKABLE, Propagation

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH_FOLDER = str(Path(torch.__file__).parent)


class _Cause(NamedTuple):
    reason: str
    op: str
    module_path: str


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code that issued the call, or an empty string.

    Code inside torch itself (the forward of ``nn.Conv2d``) is passed over for its caller.
    """
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    own = [frame for frame in frames if not frame[0].startswith(_TORCH_FOLDER)] or frames
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def collect_freezes(walk: Propagation) -> tuple[Freeze, ...]:
    """Events that froze at least one unit, or that one should know of.

    Those are operators without a rule, and sizes that the data decide.
    """
    return tuple(
        Freeze(
            op=op_name(event.node),
            module_path=module_path(event.node),
            reason=event.reason,
            source_line=source_line(event.node),
            is_unknown_op=event.is_unknown_op,
            num_units=count,
        )
        for event, count in zip(walk.events, walk.num_frozen_by, strict=True)
        if (count or event.is_unknown_op or event.reason == SIZE_FROM_DATA)
        and event.reason not in UNREMARKABLE
    )


def unused_tensors(module: fx.GraphModule) -> frozenset[str]:
    """Names of parameters that no node of the graph reads, under any of their names."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr" and node.users}
    named = list(module.named_parameters(remove_duplicate=False))
    used = {id(tensor) for name, tensor in named if name in read}
    return frozenset(name for name, tensor in named if id(tensor) not in used)


def unused_modules(module: fx.GraphModule) -> tuple[str, ...]:
    """The outermost modules of which no parameter is read, and single parameters elsewhere."""
    unused = unused_tensors(module)
    used = {name for name, _ in module.named_parameters(remove_duplicate=False)} - unused
    alive = {path for name in used for path in accumulate(name.split("."), "{}.{}".format)}
    outermost = (
        next(path for path in accumulate(name.split("."), "{}.{}".format) if path not in alive)
        for name, _ in module.named_parameters(remove_duplicate=False)
        if name in unused
    )
    return tuple(dict.fromkeys(outermost))


def frozen_groups(walk: Propagation, entries: Entries) -> tuple[FrozenGroup, ...]:
    """Produced dimensions of parameters whose indices stay, with the earliest reason.

    One entry a reason, operation and module: what one freezing call holds in place together.
    """
    roots, dims, places = entries.roots, entries.dims, entries.places
    reasons = walk.store.reason_of(roots)
    frozen = reasons != NO_REASON
    by_reason: dict[_Cause, list[int]] = defaultdict(list)
    units: Counter[_Cause] = Counter()
    for number in np.unique(reasons[frozen]):
        event = walk.events[number]
        if event.reason in UNREMARKABLE:
            continue
        key = _Cause(event.reason, op_name(event.node), module_path(event.node))
        rows = frozen & (reasons == number)
        by_reason[key] += [int(dim) for dim in np.unique(dims[rows])]
        units[key] += len(np.unique(roots[rows]))
    parameters = {name for name, _ in walk.module.named_parameters(remove_duplicate=False)}
    result = []
    for cause, numbers in by_reason.items():
        tensors = tuple(
            dict.fromkeys(
                places[n][0]
                for n in numbers
                if places[n][0] in parameters and places[n] not in walk.consumed
            )
        )
        if not tensors:
            continue
        sizes = [fetch_tensor(walk.module, name) for name in tensors]
        result.append(
            FrozenGroup(
                name=tensors[0].removesuffix(".weight"),
                size=units[cause],
                num_params=sum(tensor.numel() for tensor in sizes if tensor is not None),
                reason=cause.reason,
                tensors=tensors,
                op=cause.op,
                module_path=cause.module_path,
            )
        )
    return tuple(result)
