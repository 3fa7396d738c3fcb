"""Einstein sums: equal letters are tied, letters that the result lacks are summed away."""

from __future__ import annotations

from collections import Counter

from torch import fx

from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import Propagation, Value
from fairdeploy.graph.walk.rules.elementwise import tie_all
from fairdeploy.graph.walk.rules.registry import rule

ELLIPSIS = "..."

Letter = str
"""A letter of the equation, or ``.N`` for the N-th dimension from the right under an ellipsis."""


def einsum_letters(
    equation: str, ranks: tuple[int, ...]
) -> tuple[list[list[Letter]], list[Letter]]:
    """Letters of each operand's dimensions, and of the result's.

    Args:
        equation: As ``torch.einsum`` takes it; without an arrow the result has the letters that
            occur once, in alphabetical order, after the dimensions under ellipses.
        ranks: Number of dimensions of each operand.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    named = [len(part.replace(ELLIPSIS, "")) for part in parts]
    hidden = [rank - count for rank, count in zip(ranks, named, strict=True)]
    operands = [_spelled(part, count) for part, count in zip(parts, hidden, strict=True)]
    widest = max(hidden)
    if arrow:
        return operands, _spelled(output, widest)
    counts = Counter(letter for part in parts for letter in part.replace(ELLIPSIS, ""))
    once = sorted(letter for letter, count in counts.items() if count == 1)
    return operands, [*_spelled(ELLIPSIS, widest), *once]


def _spelled(part: str, num_hidden: int) -> list[Letter]:
    before, ellipsis, after = part.partition(ELLIPSIS)
    hidden = [f".{place}" for place in range(num_hidden, 0, -1)] if ellipsis else []
    return [*before, *hidden, *after]


@rule("einsum")
def einsum(walk: Propagation, node: fx.Node) -> Value:
    """Any equation; a letter that occurs twice in one operand (a diagonal) freezes."""
    given = node.args[1]
    assert isinstance(given, (list, tuple))
    operands = [walk.dims(operand) for operand in given]
    letters, output = einsum_letters(str(node.args[0]), tuple(map(len, operands)))
    vectors: dict[Letter, list[Labels]] = {}
    computed = {
        letter
        for operand, part in zip(given, letters, strict=True)
        for letter in part
        if isinstance(operand, fx.Node) and operand.op != "get_attr"
    }
    for operand, part, dims in zip(given, letters, operands, strict=True):
        for dim, (letter, labels) in enumerate(zip(part, dims, strict=True)):
            if part.count(letter) > 1:
                walk.freeze(labels, "einsum takes a diagonal of this dimension")
            vectors.setdefault(letter, []).append(labels)
            if letter not in output:
                walk.contract(node, operand, dim, is_alone=letter not in computed)
    tied = {letter: _tied(walk, labels) for letter, labels in vectors.items()}
    return tuple(tied[letter] for letter in output)


def _tied(walk: Propagation, vectors: list[Labels]) -> Labels:
    length = max(map(len, vectors))
    for labels in vectors:
        if len(labels) != length:
            walk.freeze(labels, "a single index is broadcast over many")
    return tie_all(walk, [labels for labels in vectors if len(labels) == length], length)
