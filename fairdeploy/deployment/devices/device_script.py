"""One stand-alone script for a device, made of the files that measure here.

Nothing is written twice. Each part runs alone but for imports of other parts; these are left out,
since the parts follow each other in one file.
"""

from __future__ import annotations

import ast
import inspect

from fairdeploy.deployment.devices import device_facts
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency import bootstrap, entrants, race
from fairdeploy.errors import ExportError

_OURS = ("fairdeploy", "fairdeploy_onnx")
_HEADER = '''"""Measures the files beside it: python measure.py. The job is in job.json.

Made by fairdeploy from the files that it measures with itself. Needs Python 3.8, numpy and the
runtime that the files are for.
"""

from __future__ import annotations
'''


def device_script(exporter: Exporter) -> str:
    """The whole script.

    Raises:
        ExportError: The exporter cannot measure on other devices, or two parts share a name.
    """
    sources = exporter.device_sources()
    ours = (inspect.getsource(module) for module in (bootstrap, entrants, race, device_facts))
    return joined(*ours, *sources)


def joined(*sources: str) -> str:
    """The parts in one file.

    Raises:
        ExportError: Two parts define the same name, so that one would lose its own.
    """
    defined: set[str] = set()
    for source in sources:
        names = set(_defined_names(ast.parse(source)))
        if names & defined:
            raise ExportError(
                f"two parts of the device script define '{sorted(names & defined)[0]}'; rename one"
            )
        defined |= names
    return "\n".join([_HEADER, *(_body(source) for source in sources)])


def _body(source: str) -> str:
    """The text without its docstring and without imports of ``__future__`` and of other parts."""
    tree = ast.parse(source)
    left_out = [node for node in ast.walk(tree) if _is_own_import(node)]
    lines = source.splitlines()
    for node in [tree.body[0], *left_out]:
        assert isinstance(node, ast.stmt)
        for index in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[index] = "" if node.col_offset == 0 else " " * node.col_offset + "pass"
    return "\n".join(lines).strip() + "\n"


def _is_own_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return False
    return node.module == "__future__" or node.module.split(".")[0] in _OURS


def _defined_names(tree: ast.Module) -> list[str]:
    """Functions, classes and constants of the top level."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names
