"""Which modules and groups a glob matches, and what a glob that matches nothing is told."""

from __future__ import annotations

import pytest

from fairdeploy.allocation.module_globs import Layers, check_globs, matches, module_of, producers
from fairdeploy.errors import UsageError
from tests.allocation.restricted_networks import heads, two_stages


@pytest.mark.parametrize(
    ("glob", "tensor", "is_match"),
    [
        ("layer4", "layer4.0.conv1.weight", True),
        ("layer4.*", "layer4.0.conv1.weight", True),
        ("layer4.0", "layer4.0.conv1.weight", True),
        ("layer[12].*", "layer2.0.conv1.weight", True),
        ("*.conv1", "layer4.0.conv1.weight", True),
        ("layer4.0.conv1.weight", "layer4.0.conv1.weight", True),
        ("layer", "layer4.0.conv1.weight", False),
        ("layer4", "layer40.0.conv1.weight", False),
        ("LAYER4", "layer4.0.conv1.weight", False),
        ("conv1", "layer4.0.conv1.weight", False),
    ],
)
def test_glob_matches_a_module_what_is_inside_and_a_full_name(
    glob: str, tensor: str, is_match: bool
) -> None:
    assert matches(glob, tensor) is is_match


def test_norms_and_tables_make_a_group_but_only_layers_set_its_width() -> None:
    graph = two_stages()
    made_by = {module_of(name) for name in producers(graph.groups[0])}
    assert made_by == {"stem.conv", "stem.norm", "body.0.out"}
    assert Layers(graph).of(graph.groups[0]) == ("stem.conv.weight", "body.0.out.weight")


def test_depthwise_convolution_takes_the_width_that_it_is_given() -> None:
    graph = heads()
    assert Layers(graph).of(graph.groups[2]) == ("pointwise.weight",)


def test_glob_of_a_module_without_parameters_is_accepted() -> None:
    check_globs(two_stages(), "--exclude", ("relu", "head"))


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("bdy.*", r"--exclude 'bdy.\*' matches no module of this network; did you mean 'body' or"),
        ("stem.cnov", r"matches no module of this network; did you mean 'stem.conv'"),
        ("qqqq", r"it has 'body', 'head', 'relu', 'stem', 'tail'; 'fairdeploy inspect' lists them"),
    ],
)
def test_glob_that_matches_nothing_is_refused_with_near_names(glob: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_globs(two_stages(), "--exclude", (glob,))
