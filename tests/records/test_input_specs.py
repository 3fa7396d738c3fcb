"""What ``--input`` says, and what it says when it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.errors import UsageError
from fairdeploy.records.input_specs import DTYPES, InputSpec, VaryingSize, main_of, parse_inputs

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,6}", fullmatch=True)


@st.composite
def described_inputs(draw: st.DrawFn) -> tuple[InputSpec, ...]:
    ranges = [
        VaryingSize(name, low, low + step * count, step)
        for name, low, step, count in zip(
            ("H", "W"),
            draw(st.lists(st.integers(1, 50), min_size=2, max_size=2)),
            draw(st.lists(st.integers(1, 8), min_size=2, max_size=2)),
            draw(st.lists(st.integers(1, 9), min_size=2, max_size=2)),
            strict=True,
        )
    ]
    sizes = st.lists(st.integers(1, 300) | st.sampled_from(ranges), max_size=4).map(tuple)
    specs = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        dtype = draw(st.sampled_from(DTYPES))
        count = draw(st.none() | st.integers(1, 9)) if dtype.startswith("int") else None
        specs.append(InputSpec(name, draw(sizes), dtype, count))
    return tuple(specs)


@given(described_inputs())
def test_text_of_any_inputs_reads_back_as_the_same_inputs(specs: tuple[InputSpec, ...]) -> None:
    assert parse_inputs(map(str, specs)) == specs


def test_sizes_types_and_counts_are_read() -> None:
    image, mask, tokens, step = parse_inputs(
        [
            "image:3,H=192-330/32, W=192-320",
            "mask:1,H,W:bool",
            "tokens:77:int64:49408",
            "step::int32",
        ]
    )
    height, width = VaryingSize("H", 192, 320, 32), VaryingSize("W", 192, 320)
    assert image == InputSpec("image", (3, height, width))
    assert mask == InputSpec("mask", (1, height, width), "bool")
    assert tokens == InputSpec("tokens", (77,), "int64", 49408)
    assert step == InputSpec("step", (), "int32")
    assert list(height.choices) == [192, 224, 256, 288, 320]
    assert mask.shape({"H": 224, "W": 200}) == (1, 224, 200)


def test_the_first_float_input_of_three_sizes_takes_the_images() -> None:
    specs = parse_inputs(["ids:3,8,8:int64", "points:8", "photo:3,8,8", "mask:1,8,8"])
    assert main_of(specs).name == "photo"
    assert main_of(specs[:2]).name == "points", "then any of floats"
    assert main_of(specs[:1]).name == "ids"
    flags = parse_inputs(["mask:1,8,8:bool", "step:"])
    with pytest.raises(UsageError, match=r"no input takes data: mask:1,8,8:bool, step:; one of"):
        main_of(flags)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["3,224,224"], r"'3,224,224' is not NAME:SIZES"),
        (["image"], r"'image' is not NAME:SIZES"),
        (["a:1:int64:5:6"], r"is not NAME:SIZES"),
        (["image:3,big"], r"has the size 'big'; write a whole number, or H=192-320"),
        (["image:3,0,8"], r"has the size '0'"),
        (["image:3,,8"], r"has the size ''"),
        (["image:3,H,W"], r"has the size 'H'"),
        (["image:3,H=9-8,8"], r"has the range 'H=9-8'.*two sizes or more"),
        (["image:3,H=8-9/4,8"], r"has the range 'H=8-9/4'.*two sizes or more"),
        (["image:3,batch=1-9,8"], r"its name may not be 'batch'"),
        (["a:3,H=8-16,8", "b:3,H=8-32,8"], r"gives 'H' another range than 'H=8-16'"),
        (["a:3:float16"], r"has the type 'float16'; use one of float32, int64, int32, bool"),
        (["a:3:float32:7"], r"has the count '7'; give whole-number inputs"),
        (["a:3:int64:none"], r"has the count 'none'"),
        (["a:3", "a:4"], r"'a' is given twice"),
    ],
)
def test_wrong_description_is_refused_with_what_would_be_right(
    texts: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_inputs(texts)
    assert "\n" not in str(caught.value)
