"""Cut a reshape into the shortest runs of dimensions that hold the same number of elements."""

from __future__ import annotations

Segment = tuple[tuple[int, ...], tuple[int, ...]]


def segments(source: tuple[int, ...], target: tuple[int, ...]) -> list[Segment]:
    """Pairs of (source axes, target axes) with equal products; axes of length 1 are left out.

    ``(2, 3, 8) -> (6, 2, 4)`` gives ``[((0, 1), (0,)), ((2,), (1, 2))]``.
    """
    left = [axis for axis, length in enumerate(source) if length != 1]
    right = [axis for axis, length in enumerate(target) if length != 1]
    result: list[Segment] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start_i, start_j = i, j
        product_left, product_right = source[left[i]], target[right[j]]
        i, j = i + 1, j + 1
        while product_left != product_right:
            if product_left < product_right:
                product_left *= source[left[i]]
                i += 1
            else:
                product_right *= target[right[j]]
                j += 1
        result.append((tuple(left[start_i:i]), tuple(right[start_j:j])))
    return result
