"""What ``--input`` says about one input of a network: name, sizes, type.

``NAME:SIZES[:TYPE[:COUNT]]``, as in ``image:3,224,224``, ``tokens:77:int64:49408`` or
``image:3,H=192-320/32,W=192-320/32``. The batch comes first and is not written. A size that may
change from call to call has a name, a range and, where not every size of the range will do, a step;
the same name, alone, is the same size again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fairdeploy.errors import UsageError

DTYPES = ("float32", "int64", "int32", "bool")
_NAME = re.compile(r"[A-Za-z_]\w*")
_RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)-(\d+)(?:/(\d+))?")
_IMAGE_DIMS = 3
BATCH = "batch"
"""Name of the first size of every input."""


@dataclass(frozen=True, slots=True)
class VaryingSize:
    """A size that may change from call to call: ``smallest``, one ``step`` more, …, ``largest``."""

    name: str
    smallest: int
    largest: int
    step: int = 1

    @property
    def choices(self) -> range:
        """Every size that is allowed, ascending."""
        return range(self.smallest, self.largest + 1, self.step)

    def __str__(self) -> str:
        step = f"/{self.step}" if self.step > 1 else ""
        return f"{self.name}={self.smallest}-{self.largest}{step}"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """``H=192, W=224``."""
    return ", ".join(f"{name}={length}" for name, length in sizes.items())


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a network, without its batch."""

    name: str
    """Of the forward's parameter."""
    sizes: tuple[int | VaryingSize, ...]
    """One per dimension after the batch; empty for one number per image."""
    dtype: str = "float32"
    num_values: int | None = None
    """Whole numbers lie in [0, num_values); None where nobody has said."""

    @property
    def is_image(self) -> bool:
        """Whether it can take images: float32, [C, H, W] with a fixed C."""
        is_float = self.dtype == "float32"
        return is_float and len(self.sizes) == _IMAGE_DIMS and isinstance(self.sizes[0], int)

    @property
    def varying(self) -> tuple[VaryingSize, ...]:
        """Its sizes that may change."""
        return tuple(size for size in self.sizes if isinstance(size, VaryingSize))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of one item where the varying sizes are ``sizes``."""
        return tuple(s if isinstance(s, int) else sizes[s.name] for s in self.sizes)

    def with_fixed_sizes(self, sizes: Mapping[str, int], but: str) -> InputSpec:
        """The same with every varying size fixed except the one named ``but``."""
        fixed = (
            sizes[s.name] if isinstance(s, VaryingSize) and s.name != but else s for s in self.sizes
        )
        return replace(self, sizes=tuple(fixed))

    def __str__(self) -> str:
        text = f"{self.name}:{','.join(map(str, self.sizes))}"
        if self.num_values is not None:
            return f"{text}:{self.dtype}:{self.num_values}"
        return text if self.dtype == "float32" else f"{text}:{self.dtype}"


def parse_inputs(texts: Iterable[str]) -> tuple[InputSpec, ...]:
    """Read all ``--input`` options of one command.

    Raises:
        UsageError: A text is not ``NAME:SIZES[:TYPE[:COUNT]]``, or two of them contradict.
    """
    varying: dict[str, VaryingSize] = {}
    specs: list[InputSpec] = []
    for text in texts:
        spec = _parse(text, varying)
        if spec.name in {other.name for other in specs}:
            raise UsageError(f"--input '{spec.name}' is given twice; give each input once")
        specs.append(spec)
    return tuple(specs)


def main_of(specs: Iterable[InputSpec]) -> InputSpec:
    """The input that the data are for: the first that takes images, else the first with sizes.

    Raises:
        UsageError: None of them can take data.
    """
    given = tuple(specs)
    with_sizes = [spec for spec in given if spec.sizes and spec.dtype != "bool"]
    floats = [spec for spec in with_sizes if spec.dtype == "float32"]
    for spec in (*(spec for spec in given if spec.is_image), *floats, *with_sizes):
        return spec
    raise UsageError(
        f"no input takes data: {', '.join(map(str, given))}; one of them must have sizes, as in "
        "--input image:3,224,224, --input wave:1,16000 or --input tokens:77:int64:49408"
    )


def _parse(text: str, varying: dict[str, VaryingSize]) -> InputSpec:
    name, *rest = (part.strip() for part in text.split(":"))
    if not _NAME.fullmatch(name) or not 1 <= len(rest) <= _IMAGE_DIMS:
        raise UsageError(
            f"--input '{text}' is not NAME:SIZES[:TYPE[:COUNT]]; write for example "
            "--input image:3,224,224 or --input tokens:77:int64"
        )
    sizes = tuple(_size(text, part.strip(), varying) for part in rest[0].split(",") if rest[0])
    dtype = rest[1] if len(rest) > 1 else "float32"
    if dtype not in DTYPES:
        raise UsageError(f"--input '{text}' has the type '{dtype}'; use one of {', '.join(DTYPES)}")
    return InputSpec(name, sizes, dtype, _count(text, rest[2:], dtype))


def _size(text: str, part: str, varying: dict[str, VaryingSize]) -> int | VaryingSize:
    """One size; a range is added to ``varying`` (changed), so that its name can stand alone."""
    if part.isdecimal() and int(part) > 0:
        return int(part)
    if part in varying:
        return varying[part]
    match = _RANGE.fullmatch(part)
    if match is None:
        raise UsageError(
            f"--input '{text}' has the size '{part}'; write a whole number, or H=192-320 or "
            "H=192-320/32 for one that may change"
        )
    name, low, high, step = match.groups(default="1")
    size = VaryingSize(name, int(low), int(high), int(step))
    if size.smallest < 1 or size.step < 1 or len(size.choices) < 2 or name == BATCH:
        raise UsageError(
            f"--input '{text}' has the range '{part}'; its name may not be '{BATCH}', it must "
            "start above 0 and hold two sizes or more"
        )
    size = VaryingSize(name, size.smallest, size.choices[-1], size.step)
    if varying.setdefault(name, size) != size:
        raise UsageError(
            f"--input '{text}' gives '{name}' another range than '{varying[name]}'; use two names, "
            f"or '{name}' alone for the same size"
        )
    return size


def _count(text: str, rest: list[str], dtype: str) -> int | None:
    if not rest:
        return None
    if not dtype.startswith("int") or not rest[0].isdecimal() or int(rest[0]) < 1:
        raise UsageError(
            f"--input '{text}' has the count '{rest[0]}'; give whole-number inputs the number of "
            "values that they take, and no other inputs one"
        )
    return int(rest[0])
