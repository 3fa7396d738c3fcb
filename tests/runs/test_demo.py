from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from fairdeploy.errors import DataError, OutputError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.runs.demo import network as demo_network
from fairdeploy.runs.demo import run as demo
from fairdeploy.runs.demo.images import DigitSplit, load_digit_splits
from fairdeploy.runs.progress import SilentProgress, SilentStage
from fairdeploy.settings.project_file import load_project_file


@pytest.fixture(scope="module")
def splits() -> tuple[DigitSplit, DigitSplit]:
    return load_digit_splits(seed=0)


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_network, "NUM_EPOCHS", 1)


def test_every_digit_has_the_same_share_in_both_splits(
    splits: tuple[DigitSplit, DigitSplit],
) -> None:
    train, test = splits
    assert len(train.labels) + len(test.labels) == 1797
    shares = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    np.testing.assert_allclose(shares, 0.25, atol=0.005)


def test_no_image_is_in_both_splits(splits: tuple[DigitSplit, DigitSplit]) -> None:
    train, test = ({image.tobytes() for image in split.images} for split in splits)
    assert train.isdisjoint(test)


def test_images_use_the_whole_range_of_grey(splits: tuple[DigitSplit, DigitSplit]) -> None:
    train, _ = splits
    assert train.images.shape[1:] == (32, 32)
    assert (train.images.min(), train.images.max()) == (0, 255)


def test_same_seed_trains_the_same_network(splits: tuple[DigitSplit, DigitSplit]) -> None:
    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        network = demo_network.build_network()
        images = demo_network.images_as_input(splits[1], 0.3, 0.4)[:128]
        labels = torch.from_numpy(splits[1].labels)[:128]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo_network, "NUM_EPOCHS", 1)
            demo_network.train(network, images, labels, seed=0, stage=SilentStage())
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    assert torch.equal(trained(), trained())


@pytest.mark.usefixtures("quick_training")
def test_folder_holds_what_a_user_would_bring(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    model = demo.prepare_demo(folder, force=False, progress=SilentProgress())
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits",
        "fairdeploy.toml",
        "model.pt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (torch.get_num_threads(), torch.equal(torch.get_rng_state(), state)) == (threads, True)

    project = load_project_file(folder)
    loaded = load_model(
        str(folder / "model.pt"),
        input_shape=project.input_size,
        mean=project.mean,
        std=project.std,
    )
    assert loaded.warnings == ()
    data = load_data(
        project.data, loaded.preprocessing, num_calibration=100, class_names=project.class_names
    )
    assert data.warnings == ()
    assert data.test is not None
    assert data.test.labels is not None
    assert len(data.test) == model.num_test == 450
    # Read back through the product's own loaders, the network is as good as it was in training.
    with torch.no_grad():
        right = loaded.module(data.test.images).argmax(1) == data.test.labels
    assert float(right.float().mean()) == pytest.approx(model.test_accuracy, abs=0.005)
    assert data.test.images.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.usefixtures("quick_training")
def test_project_file_names_the_digits_as_text(tmp_path: Path) -> None:
    demo.prepare_demo(tmp_path / "demo", force=False, progress=SilentProgress())
    project = tomllib.loads((tmp_path / "demo" / "fairdeploy.toml").read_text())
    assert project["class_names"] == [str(digit) for digit in range(10)]
    assert project["data"] == "digits"


def test_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; name another, or add --force"):
        demo.check_demo_folder(tmp_path, force=False)
    with pytest.raises(OutputError, match="holds no earlier demo; --force replaces nothing else"):
        demo.check_demo_folder(tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(OutputError, match="is not a folder"):
        demo.check_demo_folder(tmp_path / "demo", force=True)


@pytest.mark.usefixtures("quick_training")
def test_force_replaces_an_earlier_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo.prepare_demo(folder, force=False, progress=SilentProgress())
    (folder / "stale.txt").write_text("old")
    demo.prepare_demo(folder, force=True, progress=SilentProgress())
    assert not (folder / "stale.txt").exists()


def test_interrupted_training_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_network, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.prepare_demo(tmp_path / "demo", force=False, progress=SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"run pip install 'fairdeploy\[demo\]'"):
        load_digit_splits(seed=0)


@pytest.mark.slow
def test_whole_demo_ends_with_a_report_and_a_good_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from fairdeploy.cli import app as cli

    assert cli.run(["demo", str(tmp_path / "demo")]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "$ fairdeploy shrink model.pt --budget 40%" in shown
    assert (tmp_path / "demo" / "model-shrunk" / "report.html").is_file()
