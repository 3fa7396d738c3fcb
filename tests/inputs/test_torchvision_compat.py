"""torchvision and timm can be imported whatever torch build they lie beside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fairdeploy.errors import ModelError
from fairdeploy.inputs.torchvision_compat import ensure_torchvision


def test_torchvision_and_timm_import_in_a_fresh_process() -> None:
    code = (
        "from fairdeploy.inputs.torchvision_compat import ensure_torchvision\n"
        "ensure_torchvision(); ensure_torchvision()\n"
        "import timm, torch, torchvision\n"
        "net = torchvision.models.get_model('shufflenet_v2_x0_5', weights=None).eval()\n"
        "print(tuple(net(torch.zeros(1, 3, 32, 32)).shape))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "(1, 1000)", result.stderr


def test_missing_torchvision_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ModelError, match=r"'torchvision' is not installed; run pip install"):
        ensure_torchvision()


def test_another_import_failure_is_passed_on_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("libjpeg is too old")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModelError, match="torchvision cannot be imported: libjpeg is too old"):
        ensure_torchvision()
