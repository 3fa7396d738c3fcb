"""Whether a network's answer for an image hangs on that image alone, as every proof presumes.

It does not where the forward draws random numbers, remembers earlier calls or reads the clock,
where tracing froze such a value, or where images of a batch are mixed (a norm with the batch's own
statistics). A few passes over three random images tell, and where they do, the first call whose
inputs agree and whose result does not is to blame.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fairdeploy.errors import ModelError
from fairdeploy.graph.call_facts import module_path
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.graph.capture.model_outputs import output_tensors, register_dataclasses
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.walk.freezes import source_line
from fairdeploy.surgery.equivalence import double_by_default, double_inputs, in_double

_BATCH = 3
_SEEDS = (1, 2)
_LARGER = 4.0
_AGAIN_LIMIT = 1e-5
"""Of the same call twice: on one machine there is no rounding between them."""
_LIMIT = 1e-4
"""Of float32, where other kernels may run; what is above is tried again in float64."""
_DOUBLE_LIMIT = 1e-7
_BROKEN = 0.05
"""What no rounding explains, where float64 cannot be tried."""
_TINY = 1e-30
_OUR_FILE = __file__
_TORCH_FOLDER = str(Path(torch.__file__).parent)
_RANDOM = ("rand", "dropout", "bernoulli", "normal_", "multinomial", "uniform", "exponential_")

Tensors = tuple[Tensor, ...]
Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the forward, what it gave, and where it stands."""

    name: str
    module: str
    line: str
    result: tuple[float, ...] = ()

    def __str__(self) -> str:
        module = f" in module '{self.module}'" if self.module else ""
        return f"'{self.name}'{module}{f' at {self.line}' if self.line else ''}"


def require_steady(module: nn.Module, graph: UnitGraph, seed: int = 0) -> None:
    """Raise where the answer for an image hangs on more than the image; ``module`` stays as it is.

    Changes the global random states of Python, NumPy and torch.

    Args:
        module: The user's, which ``graph`` was captured from.
        seed: Of the images.

    Raises:
        ModelError: Says which call of the forward is to blame.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = _BATCH if graph.has_dynamic_batch else graph.inputs.batch
    images = graph.inputs.random(batch, generator)
    # larger ones, so that the largest value of a batch is not the image's own
    others = tuple(
        _LARGER * tensor if tensor.is_floating_point() else tensor
        for tensor in graph.inputs.random(batch, generator)
    )
    with torch.no_grad(), quiet_export(), _kept_buffers(graph.module):
        traced = _require_same_again_as_traced(graph, images)
        own = _require_same_again(module, graph, images)
        if own is not None:
            _require_same_as_traced(module, graph, images, _error(_paired(own, traced)))
        _require_same_beside_others(graph, images, traced, others)


def _require_same_again_as_traced(graph: UnitGraph, images: Tensors) -> list[Tensor]:
    """What the graph gives, twice, with other random numbers."""
    first, second = (_seeded(seed, graph.module, images) for seed in _SEEDS)
    if _error(_paired(first, second)) > _AGAIN_LIMIT:
        runs = _both_values(graph.module, (images, images), _SEEDS)
        node = _first_apart(runs, _whole, _AGAIN_LIMIT)
        raise _changing(_call_of(node), "draws random numbers")
    return first


def _require_same_again(
    module: nn.Module, graph: UnitGraph, images: Tensors
) -> list[Tensor] | None:
    """What the user's module gives, twice; None if it gives no tensors or runs only while traced.

    What is random in Python alone, or remembered, shows only here: tracing froze it.
    """
    own = _copy(module)
    first, second = (_called(seed, own, graph, images) for seed in _SEEDS)
    if first is None or second is None or _error(_paired(first, second)) <= _AGAIN_LIMIT:
        return first
    calls = [_recorded(seed, own, graph, images) for seed in _SEEDS]
    found = (ours for ours, theirs in zip(*calls, strict=False) if not _is_same_call(ours, theirs))
    raise _changing(next(found, None), _why_it_changes(module, graph, images))


def _require_same_as_traced(
    module: nn.Module, graph: UnitGraph, images: Tensors, error: float
) -> None:
    """The graph, which is what is shrunk and judged, is the user's network."""
    if error > _LIMIT:
        error = _traced_error_in_double(module, graph, images, error)
    if error > _LIMIT:
        raise ModelError(
            f"the network as torch.export traces it differs from the model itself by {error:.1e} "
            "of its largest output: its forward does something else while it is traced, or reads "
            "a value that tracing freezes; let it compute the same whoever calls it"
        )


def _require_same_beside_others(
    graph: UnitGraph, images: Tensors, answers: list[Tensor], others: Tensors
) -> None:
    """One image alone, which tells by the shapes what counts images, and beside other images."""
    count = len(images[graph.inputs.image])
    place = count // 2
    if graph.has_dynamic_batch:
        alone = tuple(old[place : place + 1] if old.dim() else old for old in images)
        _require_same_row(graph, images, answers, alone, _Rows(count, 1, place))
    elif count == 1:
        return
    exchanged = tuple(
        torch.cat([new[:place], old[place : place + 1], new[place + 1 :]]) if old.dim() else old
        for old, new in zip(images, others, strict=True)
    )
    _require_same_row(graph, images, answers, exchanged, _Rows(count, count, place))


def _require_same_row(
    graph: UnitGraph, images: Tensors, answers: list[Tensor], trial: Tensors, rows: _Rows
) -> None:
    """What differs in float32 is compared again in float64."""
    error = rows.error(answers, _seeded(_SEEDS[0], graph.module, trial))
    if error <= _LIMIT:
        return
    trials = (images, trial)
    try:
        with double_by_default():
            runs = _both_values(in_double(graph.module), tuple(map(double_inputs, trials)))
        limit = _DOUBLE_LIMIT
    except (RuntimeError, TypeError):  # a kernel that takes float32 alone
        runs, limit = _both_values(graph.module, trials), _BROKEN
    if rows.error(*(output_tensors(values[_output_of(values)]) for values in runs)) > limit:
        raise _mixing(_call_of(_first_apart(runs, rows.pairs, limit)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """One image's part of a value in a batch, and the same of a value in another batch."""

    ours: int
    theirs: int
    place: int

    def pairs(self, ours: Tensor, theirs: Tensor) -> Pairs:
        """What may be the image's part of both, by each dimension that may count images.

        It may count images times something, with either outside.
        """
        found: Pairs = []
        place = self.place if self.ours == self.theirs else 0
        for dim, (size, other) in enumerate(zip(ours.shape, theirs.shape, strict=False)):
            if size and size % self.ours == 0 and size * self.theirs == other * self.ours:
                mine = _parts(ours, dim, self.ours, self.place)
                found += zip(mine, _parts(theirs, dim, self.theirs, place), strict=True)
        return found or [(ours, theirs)]

    def error(self, ours: list[Tensor], theirs: list[Tensor]) -> float:
        """Over all outputs whose first dimension counts images."""
        both = zip(ours, theirs, strict=True)
        return _error([self.pairs(a, b)[0] for a, b in both if self._has_images(a, b)])

    def _has_images(self, ours: Tensor, theirs: Tensor) -> bool:
        return bool(ours.dim() and theirs.dim()) and (
            (len(ours), len(theirs)) == (self.ours, self.theirs)
        )


def _whole(ours: Tensor, theirs: Tensor) -> Pairs:
    return [(ours, theirs)]


def _parts(value: Tensor, dim: int, count: int, place: int) -> tuple[Tensor, Tensor]:
    """One image's part where images are outside in the dimension, and where they are inside."""
    before, size, after = value.shape[:dim], value.shape[dim], value.shape[dim + 1 :]
    outside = value.reshape(*before, count, size // count, *after)
    inside = value.reshape(*before, size // count, count, *after)
    return outside.select(dim, place), inside.select(dim + 1, place)


def _first_apart(
    runs: Sequence[Mapping[fx.Node, object]],
    pairs: Callable[[Tensor, Tensor], Pairs],
    limit: float,
) -> fx.Node | None:
    """The earliest call on the way to an output whose inputs agree and whose result does not."""

    def is_apart(node: fx.Node) -> bool:
        both = _paired(*(output_tensors(values.get(node)) for values in runs))
        return any(min(_error([pair]) for pair in pairs(*one)) > limit for one in both)

    output = _output_of(runs[0])
    reached = {node for node in output.all_input_nodes if is_apart(node)}
    apart: dict[fx.Node, None] = {}
    stack = list(reached)
    while stack:
        node = stack.pop()
        before = [other for other in node.all_input_nodes if is_apart(other)]
        if not before and node.op == "call_function":
            apart[node] = None
        stack += [other for other in before if other not in reached]
        reached.update(before)
    return next((node for node in output.graph.nodes if node in apart), None)


def _output_of(values: Iterable[fx.Node]) -> fx.Node:
    return next(node for node in values if node.op == "output")


def _both_values(
    module: fx.GraphModule, trials: Sequence[Tensors], seeds: Sequence[int] = (0, 0)
) -> list[dict[fx.Node, object]]:
    """What every node gives in two calls."""
    found = []
    for inputs, seed in zip(trials, seeds, strict=True):
        interpreter = fx.Interpreter(module, garbage_collect_values=False)
        torch.manual_seed(seed)
        interpreter.run(*inputs)
        found.append(dict(interpreter.env))
    return found


def _error(pairs: Pairs) -> float:
    """Largest difference, each relative to its largest value; what is not finite must agree."""
    worst = 0.0
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            return float("inf")
        a, b = ours.double(), theirs.double()
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()):
            return float("inf")
        if bool(finite.any()):
            a, b = a[finite], b[finite]
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(_TINY)))
    return worst


def _paired(ours: Any, theirs: Any) -> Pairs:
    """Tensors by place; a pair that never agrees where one has more."""
    if len(ours) != len(theirs):
        return [(torch.zeros(0), torch.zeros(1))]
    return list(zip(ours, theirs, strict=True))


def _seeded(seed: int, module: nn.Module, inputs: Tensors) -> list[Tensor]:
    """What the graph gives under these random numbers."""
    _seed_all(seed)
    return output_tensors(module(*inputs))


def _called(seed: int, module: nn.Module, graph: UnitGraph, inputs: Tensors) -> list[Tensor] | None:
    """What the user's module gives; None if it gives no tensors, or runs only while traced."""
    _seed_all(seed)
    try:
        output = graph.inputs.call(module, inputs)
    except Exception:  # user code
        return None
    register_dataclasses(output)
    return [tensor.detach().clone() for tensor in output_tensors(output)] or None


def _recorded(seed: int, module: nn.Module, graph: UnitGraph, inputs: Tensors) -> list[_Call]:
    _seed_all(seed)
    recorder = _Recorder({id(part): name for name, part in module.named_modules()})
    with recorder:
        graph.inputs.call(module, inputs)
    return recorder.calls


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _why_it_changes(module: nn.Module, graph: UnitGraph, images: Tensors) -> str:
    """What fresh copies of the module tell."""
    same = [_called(_SEEDS[0], _copy(module), graph, images) for _ in _SEEDS]
    other = _called(_SEEDS[1], _copy(module), graph, images)
    if None in (*same, other) or _error(_paired(*same)) > _AGAIN_LIMIT:
        return "depends on the time, or on what else changes between two calls"
    if _error(_paired(same[0], other)) > _AGAIN_LIMIT:
        return "depends on random numbers of Python or NumPy, or draws its own"
    return "depends on what earlier calls left behind (a counter or a state on the module)"


def _traced_error_in_double(
    module: nn.Module, graph: UnitGraph, images: Tensors, error: float
) -> float:
    """The same in float64; ``error`` where that cannot be had and no rounding explains it."""
    inputs = double_inputs(images)
    try:
        with double_by_default():
            own = _called(_SEEDS[0], _copy(module, shares=False).double(), graph, inputs)
            if own is not None:
                return _error(_paired(own, _seeded(_SEEDS[0], in_double(graph.module), inputs)))
    except (RuntimeError, TypeError):  # a kernel that takes float32 alone
        pass
    return error if error > _BROKEN else 0.0


def _copy(module: nn.Module, *, shares: bool = True) -> nn.Module:
    """A copy that may change; it shares parameters. The module itself where there is no copy."""
    memo: dict[int, Any] = {id(part): part for part in module.parameters()} if shares else {}
    try:
        return copy.deepcopy(module, memo)
    except Exception:  # locks, handles and computed weights do not copy
        return module


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put back what calls write into buffers."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])


class _Recorder(TorchFunctionMode):
    """Keeps every call into torch that gives tensors, with a short summary of them."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Make the call and note it."""
        result = func(*args, **(kwargs or {}))
        tensors = output_tensors(result)
        if tensors:
            name = getattr(func, "__name__", str(func)).strip("_")
            self.calls.append(_Call(name, *self._place(), _summary(tensors)))
        return result

    def _place(self) -> tuple[str, str]:
        """Innermost module and line of the user's code."""
        module, frame = "", sys._getframe(2)
        found: Any = frame
        while found is not None:
            module = module or self._names.get(id(found.f_locals.get("self")), "")
            if not found.f_code.co_filename.startswith((_TORCH_FOLDER, _OUR_FILE, "<")):
                return module, f"{found.f_code.co_filename}:{found.f_lineno}"
            found = found.f_back
        return module, ""


def _summary(tensors: list[Tensor]) -> tuple[float, ...]:
    with torch._C.DisableTorchFunction():
        sums = [(float(t.double().sum()), float(t.double().abs().sum())) for t in tensors]
        return tuple(value for pair in sums for value in pair)


def _is_same_call(ours: _Call, theirs: _Call) -> bool:
    return ours.name == theirs.name and bool(
        len(ours.result) == len(theirs.result)
        and np.allclose(ours.result, theirs.result, rtol=1e-6, atol=0, equal_nan=True)
    )


def _call_of(node: fx.Node | None) -> _Call | None:
    return None if node is None else _Call(op_name(node), module_path(node), source_line(node))


def _changing(call: _Call | None, why: str) -> ModelError:
    mend = "let it depend on its inputs alone"
    if call is not None and any(word in call.name for word in _RANDOM):
        why, mend = "draws random numbers", "draw them only where self.training is true"
        if "dropout" in call.name:
            mend = "give it training=self.training"
    return ModelError(
        f"the same images get other answers at each call: {call or 'its forward'} {why}, so "
        f"nothing can be scored or proved; {mend}"
    )


def _mixing(call: _Call | None) -> ModelError:
    is_norm = call is not None and "batch_norm" in call.name
    why = "takes its statistics over the batch" if is_norm else "mixes the images of a batch"
    mend = (
        "give the norm running statistics (track_running_stats=True) and eval mode"
        if is_norm
        else "compute it for each image by itself, not over the batch dimension"
    )
    return ModelError(
        f"the answer for an image depends on the others in its batch: {call or 'its forward'} "
        f"{why}, so it is another one on the device; {mend}"
    )
