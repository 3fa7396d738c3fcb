"""Whole runs of networks that take or return more than one image and one tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import fairdeploy
from fairdeploy.cli import app as cli
from tests.random_networks import ConvNorm, randomise
from tests.tiny_project import inputs_of, mostly_right


class Captioned(nn.Module):
    """An image with a mask, and tokens by keyword; two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.image_stem, self.mask_stem = ConvNorm(3, 16), ConvNorm(1, 16)
        self.body = ConvNorm(16, 16)
        self.words = nn.Embedding(11, 16)
        self.read = nn.Linear(16, 16)
        self.head, self.aux = nn.Linear(16, 5), nn.Linear(16, 2)

    def forward(self, mask: Tensor, image: Tensor, scale: Any = None, *, tokens: Tensor) -> Any:
        x = self.body(self.image_stem(image) + self.mask_stem(mask)).mean((2, 3))
        x = x + torch.relu(self.read(self.words(tokens).mean(1)))
        return {"aux": (self.aux(x), tokens), "logits": self.head(x)}


class Dense(nn.Module):
    """Fully convolutional: a map of scores for an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(ConvNorm(3, 16), nn.MaxPool2d(2), ConvNorm(16, 16))
        self.head, self.aux = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.down(x)
        size = x.shape[-2:]
        return {
            "out": nn.functional.interpolate(self.head(y), size=size, mode="bilinear"),
            "aux": nn.functional.interpolate(self.aux(y), size=size, mode="bilinear"),
        }


class Paired(nn.Module):
    """Takes two images at a time, no more and no fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = ConvNorm(3, 16), ConvNorm(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(self.stem(x)).reshape(2, -1, 64).mean(2)
        return self.head(y), y.sum()


class Single(Paired):
    """Takes one image at a time."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(self.stem(x)).squeeze(0).mean((1, 2))
        return self.head(y)[None], y.sum()


@dataclass
class Scores:
    """What a network of a research repository returns."""

    logits: Tensor
    features: list[Tensor]


class Structured(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = ConvNorm(3, 16), ConvNorm(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Scores:
        y = self.body(self.stem(x)).mean((2, 3))
        return Scores(self.head(y), [y.amax(1)])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "Captioned": Captioned,
    "Dense": Dense,
    "Paired": Paired,
    "Single": Single,
    "Structured": Structured,
}


def network(name: str) -> nn.Module:
    return randomise(NETWORKS[name](), seed=5)


def write_data(folder: Path, *, with_others: bool = True, with_labels: bool = True) -> None:
    """Images of five classes in ``images.npz``, with what ``Captioned`` takes besides."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 5
    images = random.integers(0, 200, (90, 8, 8, 3)) + 10 * labels[:, None, None, None]
    arrays: dict[str, Any] = {"images": images.astype(np.uint8)}
    if with_labels:
        arrays["labels"] = labels
    if with_others:
        arrays["mask"] = random.random((90, 1, 8, 8)).astype(np.float32)
        arrays["tokens"] = random.integers(0, 11, (90, 6))
    np.savez(folder / "images.npz", **arrays)


def teach(folder: Path, module: Any, batch: int) -> None:
    """Let the network give all classes, and label ``images.npz`` with most of its answers."""
    arrays = dict(np.load(folder / "images.npz"))
    images = inputs_of(arrays["images"])
    given = [{"x": images}]
    if isinstance(module, Captioned):
        mask, tokens = (torch.from_numpy(arrays[key]) for key in ("mask", "tokens"))
        given = [{"mask": mask, "image": images, "tokens": tokens}]
    parts = [
        {name: tensor[start : start + batch] for name, tensor in given[0].items()}
        for start in range(0, len(images), batch)
    ]

    def scores() -> Tensor:
        answers = [module(**part) for part in parts]
        return torch.cat([a["logits"] if isinstance(a, dict) else a[0] for a in answers])

    with torch.no_grad():
        module.eval().head.bias -= scores().mean(0)
        arrays["labels"] = mostly_right(scores())
    np.savez(folder / "images.npz", **arrays)


def run_shrink(folder: Path, name: str, *arguments: str, taught: int | None = None) -> int:
    """Run ``fairdeploy shrink`` on a network of this file; its exit code.

    With ``taught`` images at a time it first learns labels of its own.
    """
    module = network(name)
    if taught is not None:
        teach(folder, module, taught)
    torch.save(module.state_dict(), folder / "model.pt")
    return cli.run(
        ["shrink", str(folder / "model.pt"), "--arch", f"tests.runs.test_several_inputs:{name}",
         "--budget", "60%", "--num-calibration", "40", "--mean", "0.5", "--std", "0.5",
         "--data", str(folder / "images.npz"), "--output", str(folder / "out"), "--quiet",
         *arguments]
    )  # fmt: skip


def report_of(
    folder: Path, name: str, *arguments: str, taught: int | None = None
) -> dict[str, Any]:
    """``report.json`` of a run that must succeed."""
    assert run_shrink(folder, name, *arguments, taught=taught) == 0
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return report


def values(batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of ``Captioned``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "mask": torch.randn(batch, 1, 8, 8, generator=generator),
        "image": torch.randn(batch, 3, 8, 8, generator=generator),
        "tokens": torch.randint(11, (batch, 6), generator=generator),
    }


def flat(output: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(output)


CAPTIONED = ("--input", "image:3,8,8", "--input", "tokens:6:int64", "--input", "mask:1,8,8")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the whole run of ``Captioned``."""
    folder = tmp_path_factory.mktemp("captioned")
    write_data(folder)
    arguments = (*CAPTIONED, "--main-output", "logits")
    assert run_shrink(folder, "Captioned", *arguments, taught=90) == 0
    return folder


def test_three_inputs_go_through_the_whole_run(captioned: Path) -> None:
    report = json.loads((captioned / "out" / "report.json").read_text())
    assert report["model"]["inputs"] == ["mask:1,8,8", "image:3,8,8", "tokens:6:int64:11"]
    assert report["model"]["outputs"] == ["aux_0", "aux_1", "logits"]
    assert report["budget"][0]["met"]
    assert report["model"]["own_class"]["rebuilt"]
    assert report["accuracy"]["num_images"] == 50
    assert report["accuracy"]["exported"]["value"] == report["accuracy"]["recovered"]["value"]
    assert report["latency"]["speedup"] > 0
    assert not any("random values" in text for text in report["warnings"])
    page = (captioned / "out" / "report.html").read_text()
    assert "inputs mask:1,8,8, image:3,8,8, tokens:6:int64:11" in page


def test_network_of_three_inputs_comes_back_in_every_form(captioned: Path) -> None:
    program = fairdeploy.load(captioned / "out")
    own = fairdeploy.load(captioned / "out", network("Captioned"))
    assert isinstance(own, Captioned)
    session = onnxruntime.InferenceSession(captioned / "out" / "model.onnx")
    assert [node.name for node in session.get_inputs()] == ["mask", "image", "tokens"]
    assert [node.name for node in session.get_outputs()] == ["aux_0", "aux_1", "logits"]
    assert {node.shape[0] for node in session.get_inputs()} == {"batch"}
    given = values(3)
    with torch.no_grad():
        expected = flat(own(**given))
        by_name = program(given["mask"], tokens=given["tokens"], image=given["image"])
        by_position = program(*given.values())
    from_file = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    assert set(by_name) == {"aux", "logits"}
    for right, *found, theirs in zip(
        expected, flat(by_name), flat(by_position), from_file, strict=True
    ):
        for ours in found:
            torch.testing.assert_close(ours, right)
        torch.testing.assert_close(torch.from_numpy(theirs), right, rtol=1e-4, atol=1e-5)


def test_plan_alone_shrinks_a_network_of_several_inputs_again(captioned: Path) -> None:
    plan = json.loads((captioned / "out" / "plan.json").read_text())
    assert plan["inputs"] == ["image:3,8,8", "tokens:6:int64", "mask:1,8,8"]
    small = fairdeploy.apply(network("Captioned"), captioned / "out" / "plan.json")
    assert isinstance(small, Captioned)
    shrunk = fairdeploy.load(captioned / "out")
    assert [p.shape for p in small.parameters()] == [p.shape for p in shrunk.parameters()]
    with torch.no_grad():
        assert small(**values(2))["logits"].shape == (2, 5)


def test_exported_program_of_several_inputs_can_be_shrunk_again(
    captioned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["inspect", str(captioned / "out" / "model.pt2"), "--json"]
    assert cli.run([*asked, "--input", "image:3,8,8"]) == 2
    assert "also needs 'mask'" in capsys.readouterr().err
    assert cli.run([*asked, *CAPTIONED]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert model["inputs"] == ["mask:1,8,8", "image:3,8,8", "tokens:6:int64:11"]
    assert model["outputs"] == ["aux_0", "aux_1", "logits"]
    assert model["dynamic_batch"]


def test_project_file_describes_the_inputs_and_what_has_no_data_is_random(tmp_path: Path) -> None:
    write_data(tmp_path, with_others=False)
    (tmp_path / "fairdeploy.toml").write_text(
        'inputs = ["image:3,8,8", "tokens:6:int64", "mask:1,8,8"]\nmain_output = "logits"\n'
    )
    report = report_of(tmp_path, "Captioned", "--no-latency", "--recover", "none")
    assert report["model"]["inputs"] == ["mask:1,8,8", "image:3,8,8", "tokens:6:int64:11"]
    assert any("nothing for input 'mask' and 'tokens'" in text for text in report["warnings"])


def test_map_of_any_size_is_proved_and_exported_at_a_second_size(tmp_path: Path) -> None:
    write_data(tmp_path)
    report = report_of(
        tmp_path, "Dense", "--input", "x:3,H=8-24/4,W=8-24/4", "--input-size", "8", "--no-latency"
    )
    assert report["proof"]["passed"]
    assert report["proof"]["image_sizes"] == ["H=8, W=8", "H=12, W=16"]
    tried = [(row["batch"], row["image_size"]) for row in report["parity"]]
    assert tried == [(1, "H=8, W=8"), (3, "H=8, W=8"), (1, "H=12, W=16"), (3, "H=12, W=16")]
    assert report["accuracy"]["original"] is None
    assert any("a map" in text for text in report["warnings"])

    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "H", "W"]
    assert [node.name for node in session.get_outputs()] == ["out", "aux"]
    images = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    own = fairdeploy.load(tmp_path / "out", network("Dense"))
    with torch.no_grad():
        expected = own(images)
        program = fairdeploy.load(tmp_path / "out")(images)
    for name, ours in zip(("out", "aux"), session.run(None, {"x": images.numpy()}), strict=True):
        torch.testing.assert_close(program[name], expected[name])
        torch.testing.assert_close(torch.from_numpy(ours), expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "batch", "is_labelled"), [("Paired", 2, True), ("Single", 1, False)]
)
def test_network_of_fixed_batch_goes_through_the_whole_run(
    tmp_path: Path, name: str, batch: int, is_labelled: bool
) -> None:
    write_data(tmp_path, with_labels=is_labelled)
    taught = batch if is_labelled else None
    report = report_of(tmp_path, name, "--input-size", "8", taught=taught)
    assert report["model"]["fixed_batch"] == batch
    assert any(f"no other batch than {batch}" in text for text in report["warnings"])
    assert report["budget"][0]["met"]
    assert report["proof"]["batch_sizes"] == [batch]
    assert [row["batch"] for row in report["parity"]] == [batch]
    assert report["latency"]["batch"] == batch
    assert report["accuracy"]["num_images"] == (50 if is_labelled else 0)
    assert report["data"]["label_source"] == ("given" if is_labelled else "predicted")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert session.get_inputs()[0].shape == [batch, 3, 8, 8]
    images = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    own = fairdeploy.load(tmp_path / "out", network(name))
    with torch.no_grad():
        expected = fairdeploy.load(tmp_path / "out")(images)
        torch.testing.assert_close(own(images), expected)
    (logits, total) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected[0], rtol=1e-4, atol=1e-5)
    assert float(total) == pytest.approx(float(expected[1]), rel=1e-4)


def test_dataclass_comes_out_as_a_dictionary_that_loads_without_its_class(tmp_path: Path) -> None:
    write_data(tmp_path)
    report = report_of(
        tmp_path, "Structured", "--input-size", "8", "--fixed-batch", "4", "--no-latency"
    )
    assert report["model"]["outputs"] == ["logits", "features_0"]
    assert report["model"]["own_class"]["rebuilt"]
    assert [row["batch"] for row in report["parity"]] == [4]
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    own = fairdeploy.load(tmp_path / "out", network("Structured"))
    with torch.no_grad():
        expected = own(images)
        found = fairdeploy.load(tmp_path / "out")(images)
    assert isinstance(expected, Scores)
    assert set(found) == {"logits", "features"}
    torch.testing.assert_close(found["logits"], expected.logits)
    torch.testing.assert_close(found["features"][0], expected.features[0])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--input", "picture:3,8,8"), 2, "no input 'picture'; its forward takes mask, image"),
        (("--input", "image:3,8,8"), 2, "forward also needs 'mask'; describe every input"),
        (("--input", "image:3,8,8:half"), 2, "has the type 'half'; use one of float32, int64"),
        (("--input", "image:8,8"), 2, "--mean is for images, and --input image:8,8 is used"),
        ((*CAPTIONED, "--input-size", "16"), 2, "--input-size 3,16,16 does not fit --input image"),
        ((*CAPTIONED, "--main-output", "scores"), 2, "no floating-point output 'scores'; use one"),
        (CAPTIONED, 1, "image has the label 4, but the model has 2 outputs"),
        (
            ("--input", "image:3,8,8", "--input", "tokens:6:int64", "--input", "mask:8,8"),
            1,
            "the model fails on inputs mask [2, 8, 8] float32, image [2, 3, 8, 8] float32, tokens",
        ),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    write_data(tmp_path)
    assert run_shrink(tmp_path, "Captioned", *arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
