"""The stand-alone script is the files that measure here, in one, and nothing of fairdeploy else."""

from __future__ import annotations

import ast

import pytest

from fairdeploy.deployment.devices.device_script import device_script, joined
from fairdeploy.deployment.exporter_api import get_exporter, guarded_exporter
from fairdeploy.errors import ExportError
from tests.deployment.fakes import WorkingExporter


def test_the_script_is_python_3_8_and_imports_nothing_of_ours() -> None:
    tree = ast.parse(device_script(get_exporter("onnx")), feature_version=(3, 8))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in froms if str(node.module).startswith("fairdeploy")]
    assert [node.module for node in froms].count("__future__") == 1
    assert {"race", "device_facts", "open_session", "main"} <= {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }


def test_parts_follow_each_other_without_their_imports_of_each_other() -> None:
    first = '"""First."""\n\nfrom __future__ import annotations\n\ndef one():\n    return 1\n'
    second = (
        '"""Second."""\nfrom __future__ import annotations\nfrom fairdeploy.first import (\n'
        "    one,\n)\n\nif True:\n    from fairdeploy.first import one\n\nRESULT = one() + 1\n"
    )
    text = joined(first, second)
    assert "First." not in text
    assert "fairdeploy" not in ast.unparse(ast.Module(ast.parse(text).body[1:], []))
    namespace: dict[str, object] = {}
    exec(text, namespace)
    assert namespace["RESULT"] == 2


def test_two_parts_that_define_the_same_name_are_refused() -> None:
    with pytest.raises(ExportError, match="two parts of the device script define '_LIMIT'"):
        joined('"""A."""\n_LIMIT = 1\n', '"""B."""\n_LIMIT = 2\n')


def test_an_exporter_without_sources_cannot_measure_elsewhere() -> None:
    with pytest.raises(ExportError, match="exporter 'working' cannot measure on another device"):
        device_script(guarded_exporter(WorkingExporter()))
