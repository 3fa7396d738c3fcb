"""Chooses among the weights of a checkpoint those that evaluation would take, and says which.

A set of weights is looked for below any prefix of its names, since training scripts wrap their
networks (``model.``, ``student.``). Averaged weights go before plain ones. Two sets of equal
standing that both fit and differ are the user's to choose from.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.inputs.checkpoint_contents import TOP, Weights, WeightSet, is_averaged_name
from fairdeploy.inputs.state_dicts import (
    Difference,
    difference,
    infer_num_classes,
    problem_texts,
    quantised,
    quantised_name,
)

# What wrappers put between the parts of a name, at any place.
_WRAPPER_PARTS = {
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
}  # fmt: skip
# Counters of tools and losses with weights: no part of what the network computes.
_BOOKKEEPING = re.compile(
    r"(.*\.)?(thop_)?total_(ops|params)|(\w*ema\w*\.)?(n_averaged|num_updates|decay|steps)"
    r"|(criterion|criterions|loss|losses|loss_fn|loss_func|metric|metrics|\w+_(loss|metric)s?)\..*"
)
_MAX_PARTS = 12
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights under the names of the network, or the whole network they come in."""

    label: str
    """Where they lie in the file; empty for the only ones at its top."""
    weights: Weights
    preference: int
    difference: Difference
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()
    """What the user should know of the choice."""

    @property
    def text(self) -> str:
        """The label, and whether the weights are averaged."""
        if self.preference <= 0:
            return self.label
        return f"{self.label} (averaged)" if self.label else "averaged"


def choose_module(
    sets: Sequence[WeightSet], *, source: str, wanted: str | None = None
) -> Choice | None:
    """The network of a checkpoint that holds whole ones; None where it holds only weights.

    Raises:
        ModelError: It holds several that differ, or the weights chosen fit none of them.
        UsageError: Nothing in the file is called ``wanted``.
    """
    modules = [item for item in sets if item.module is not None]
    if not modules:
        return None
    if wanted is not None:
        modules = [item for item in modules if _is_called(_label(item), wanted)] or modules
    network = modules[0].module
    assert network is not None
    strangers = [item for item in modules if difference(item.weights, network.state_dict())]
    if strangers:
        names = [_label(item) for item in modules]
        raise ModelError(
            f"'{source}' holds several networks: {_listed(names)}; choose with --weights {names[0]}"
        )
    chosen = choose_weights(sets, network, source=source, arch="the module in it", wanted=wanted)
    if chosen.module is None:
        network.load_state_dict(chosen.weights, strict=False)
    return replace(chosen, module=chosen.module or network)


def choose_weights(
    sets: Sequence[WeightSet],
    network: nn.Module,
    *,
    source: str,
    arch: str,
    wanted: str | None = None,
    with_classes: Callable[[int], nn.Module] | None = None,
) -> Choice:
    """The weights for ``network``.

    Args:
        sets: Of the checkpoint.
        network: What they belong to; its number of classes may be another.
        source: File, for the message.
        arch: As typed, for the message.
        wanted: Key or prefix that the user names.
        with_classes: Builds the network with another number of classes, if that fits too.

    Raises:
        ModelError: None fits, or several do.
        UsageError: Nothing in the file is called ``wanted``.
    """
    choices = [choice for item in sets for choice in _choices(item, network)]
    choices = _called(choices, wanted, source)
    expected = network.state_dict()

    def fits(choice: Choice) -> bool:
        number = infer_num_classes(choice.weights, network) if with_classes else None
        if number is None or with_classes is None:
            return not choice.difference
        return not difference(choice.weights, with_classes(number).state_dict())

    fitting = [choice for choice in choices if fits(choice)]
    completed = [_completed(choice, fitting, network) for choice in choices if not fits(choice)]
    fitting += [choice for choice in completed if choice is not None]
    if not fitting:
        for choice in choices:
            name = quantised_name(choice.weights, choice.others)
            if name is not None:
                raise quantised(source, name)
        raise ModelError(_refusal(choices, sets, expected, source=source, arch=arch))
    best = max(choice.preference for choice in fitting)
    first, *rivals = [choice for choice in fitting if choice.preference == best]
    if not all(_same(first.weights, rival.weights) for rival in rivals):
        names = [choice.label or TOP for choice in (first, *rivals)]
        raise ModelError(
            f"'{source}' holds {len(names)} sets of weights that fit {_fitting(arch)} and differ: "
            f"{_listed(names)}; choose with --weights {names[0]} or --weights {names[1]}"
        )
    return replace(first, notes=_notes(first, fitting, choices))


def _notes(chosen: Choice, fitting: Sequence[Choice], choices: Sequence[Choice]) -> tuple[str, ...]:
    """One line that says what was taken and what else is there; none where there was no choice."""
    others = [choice for choice in fitting if choice.label != chosen.label]
    parts = [f"weights: {chosen.text or 'those at the top of the file'}", *chosen.notes]
    if others:
        names = _listed([choice.label or TOP for choice in others])
        same = all(_same(chosen.weights, choice.weights) for choice in others)
        equal = ", with the same values" if same else ""
        verb = "are" if len(others) > 1 else "is"
        parts.append(f"{names} {verb} there too{equal}: --weights {others[0].label or TOP}")
    labels = {choice.label for choice in fitting}
    unfit = [item for item in choices if item.preference > 0 and item.label not in labels]
    if unfit and chosen.preference <= 0:
        problem = "the averaged weights in it do not fit the network"
        parts.append(f"{unfit[0].label} is not used: {problem}")
    left = [name for name in chosen.left_out if not _BOOKKEEPING.fullmatch(name)]
    if left and not others:
        parts.append(f"left out, as the network has no such parts: {_roots(left)}")
    return ("; ".join(parts),) if len(parts) > 1 else ()


def _choices(found: WeightSet, network: nn.Module) -> list[Choice]:
    """The set below each prefix that may be the network's, best first."""
    expected = network.state_dict()
    weights = _with_dots(_without_wrappers(found.weights, expected), expected)
    prefixes = _prefixes(weights, expected)
    choices = []
    for prefix in prefixes:
        longer = tuple(item for item in prefixes if len(item) > len(prefix))
        kept = _below(weights, prefix, longer, expected)
        choices.append(_choice(found, weights, kept, prefix, expected))
        if not choices[-1].difference and not prefix and not longer:
            break
    if not any(not choice.difference for choice in choices):
        choices += _joined(found, weights, expected)
        choices += _with_prefix(found, weights, expected)
    return choices


def _choice(
    found: WeightSet,
    weights: Weights,
    kept: Mapping[str, str],
    prefix: str,
    expected: Mapping[str, object],
    notes: tuple[str, ...] = (),
) -> Choice:
    """One choice: the weights that ``kept`` names, by the network's names."""
    parts = list(filter(None, prefix.split(".")))
    renamed = {name: weights[theirs] for name, theirs in kept.items()}
    return Choice(
        label=".".join((*found.path, *parts)),
        weights=renamed,
        preference=found.preference or int(any(map(is_averaged_name, parts))),
        difference=difference(renamed, expected),
        left_out=tuple(name for name in weights if name not in set(kept.values())),
        others=found.others,
        module=found.module,
        notes=notes,
    )


def _below(
    weights: Weights, prefix: str, longer: tuple[str, ...], expected: Mapping[str, object]
) -> dict[str, str]:
    """The file's names below a prefix, by the network's; what lies below a longer one is its."""
    kept = {}
    for theirs in weights:
        name = theirs.removeprefix(prefix)
        is_spare = theirs.startswith(longer) or _BOOKKEEPING.fullmatch(name)
        if theirs.startswith(prefix) and (name in expected or not is_spare):
            kept[name] = theirs
    return kept


def _joined(found: WeightSet, weights: Weights, expected: Mapping[str, object]) -> list[Choice]:
    """Names without their first parts (``backbone.``, ``head.``), if that is the network."""
    pairs = [theirs.partition(".") for theirs in weights if not _BOOKKEEPING.fullmatch(theirs)]
    kept = {name: f"{root}.{name}" for root, dot, name in pairs if dot}
    roots = list(dict.fromkeys(f"{root}." for root, _, _ in pairs))
    if len(kept) < len(pairs) or len(roots) < 2:
        return []
    note = f"their names without the prefixes {_listed(roots)}"
    choice = _choice(found, weights, kept, "", expected, (note,))
    return [] if choice.difference else [choice]


def _with_prefix(
    found: WeightSet, weights: Weights, expected: Mapping[str, object]
) -> list[Choice]:
    """The file's names below the one prefix of a network that wraps the one that was saved."""
    roots = {name.partition(".")[0] for name in expected}
    if len(roots) != 1:
        return []
    prefix = f"{roots.pop()}."
    kept = {f"{prefix}{name}": name for name in weights if not _BOOKKEEPING.fullmatch(name)}
    note = f"their names with the prefix {prefix} of the network"
    choice = _choice(found, weights, kept, "", expected, (note,))
    return [] if choice.difference else [choice]


def _prefixes(weights: Weights, expected: Mapping[str, object]) -> list[str]:
    """Prefixes below which names of the network lie, the most first; none where none do."""
    votes: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for place in range(min(len(parts), _MAX_PARTS)):
            if ".".join(parts[place:]) in expected:
                votes[".".join((*parts[:place], ""))] += 1
    most = max(votes.values(), default=0)
    full = [prefix for prefix, count in votes.items() if count == most]
    rest = [prefix for prefix, count in votes.items() if most > count >= 0.8 * most]
    return [*sorted(full, key=len), *rest] or [""]


def _without_wrappers(weights: Weights, expected: Mapping[str, object]) -> Weights:
    """Names without the parts that data-parallel and compiling wrappers add, where that is safe."""
    own = {part for name in expected for part in name.split(".")}
    added = _WRAPPER_PARTS - own

    def cleaned(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in added)

    renamed = {cleaned(name): value for name, value in weights.items()}
    return renamed if len(renamed) == len(weights) else weights


def _with_dots(weights: Weights, expected: Mapping[str, object]) -> Weights:
    """Names as the network has them where a moving average dropped the dots from its own."""
    flat = {name.replace(".", ""): name for name in expected}
    renamed = {}
    for name, value in weights.items():
        root, _, rest = name.partition(".")
        is_flat = rest in flat and is_averaged_name(root)
        renamed[f"{root}.{flat[rest]}" if is_flat else name] = value
    return renamed


def _completed(choice: Choice, fitting: Sequence[Choice], network: nn.Module) -> Choice | None:
    """Averages of parameters alone, with the buffers of the plain weights beside them."""
    buffers = {name for name, _ in network.named_buffers()}
    found = choice.difference
    only_buffers = not found.reshaped and not found.surplus and buffers.issuperset(found.missing)
    plain = next((item for item in fitting if item.preference <= 0), None)
    if choice.preference <= 0 or not only_buffers or plain is None or not choice.weights:
        return None
    weights = {**{name: plain.weights[name] for name in found.missing}, **choice.weights}
    note = f"their buffers are those of {plain.label or TOP}"
    empty = Difference((), (), ())
    return replace(choice, weights=weights, difference=empty, notes=(note,))


def _called(choices: list[Choice], wanted: str | None, source: str) -> list[Choice]:
    """The choices that ``wanted`` names; all where it is None."""
    if wanted is None:
        return choices
    exact = [choice for choice in choices if (choice.label or TOP) == wanted]
    found = exact or [choice for choice in choices if _is_called(choice.label, wanted)]
    if found:
        return found
    names = list(dict.fromkeys(choice.label or TOP for choice in choices))
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise UsageError(f"no weights '{wanted}' in '{source}'; it has {_listed(names)}{hint}")


def _is_called(label: str, wanted: str) -> bool:
    return f".{wanted.strip('.')}." in f".{label}."


def _label(item: WeightSet) -> str:
    return ".".join(item.path)


def _refusal(
    choices: Sequence[Choice],
    sets: Sequence[WeightSet],
    expected: Mapping[str, object],
    *,
    source: str,
    arch: str,
) -> str:
    best = min(choices, key=lambda choice: len(choice.difference))
    place = f" with '{best.label}'" if best.label else ""
    problems = problem_texts(best.weights, expected)
    return (
        f"'{source}' does not fit {_fitting(arch)}{place}: {problems}; "
        f"the file holds {contents_text(sets)}; give the architecture and options that it was "
        "trained with, or --weights KEY for other weights in it"
    )


def contents_text(sets: Sequence[WeightSet]) -> str:
    """What a checkpoint holds: each set's key, number of tensors and prefixes of names."""
    shown = [
        f"{_label(item) or TOP} ({len(item.weights)} tensors: {_roots(item.weights)})"
        for item in sets[:_SHOWN]
    ]
    more = [f"{len(sets) - _SHOWN} more"] if len(sets) > _SHOWN else []
    return ", ".join((*shown, *more)) or "no tensors"


def _fitting(arch: str) -> str:
    return arch if arch.startswith("the ") else f"--arch {arch}"


def _roots(names: Iterable[str]) -> str:
    """``backbone., head., weight``: the first part of each name, once."""
    roots = dict.fromkeys(
        name if "." not in name else f"{name.partition('.')[0]}." for name in names
    )
    return _listed(list(roots))


def _listed(names: Sequence[str]) -> str:
    shown = [name[:80] for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more


def _same(first: Weights, other: Weights) -> bool:
    if first is other:
        return True
    return first.keys() == other.keys() and all(
        _equal(value, other[name]) for name, value in first.items()
    )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other)
