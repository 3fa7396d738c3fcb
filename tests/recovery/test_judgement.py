"""Which weights stay, and in which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from fairdeploy.records import DataSplits, ImageSet, Verdict
from fairdeploy.recovery.judgement import (
    Answers,
    Contest,
    Judge,
    divided,
    held_apart,
    kept_if_better,
)
from tests.random_networks import randomise
from tests.recovery.shrunk_networks import (
    Pair,
    SmallResidual,
    noise,
    shrink,
    small_residual,
    with_varied_answers,
)

COUNT = 300


def pair() -> Pair:
    """A network that is whole, so that its answers can be moved at will by its head's bias."""
    return shrink(small_residual(), 0.0)


def logits_of(network: Pair, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.shrunk(images)


def judged_by(network: Pair, wrong_share: float) -> Judge:
    """Labels are the network's own answers, but for a share that it gets wrong."""
    images = noise(COUNT, seed=3)
    labels = logits_of(network, images).argmax(1)
    labels[: int(wrong_share * COUNT)] += 1
    return Judge(network.graph, ImageSet(images, labels % 5, "given"))


def bias(network: Pair) -> Tensor:
    return network.shrunk.get_parameter("head.bias").detach().clone()


def move_bias(network: Pair, amount: float) -> None:
    """Another class for all images."""
    worst = int(logits_of(network, noise(50)).mean(0).argmin())
    with torch.no_grad():
        network.shrunk.get_parameter("head.bias")[worst] += amount


def test_what_is_worse_by_the_figure_is_undone_however_it_looks_elsewhere() -> None:
    network = pair()
    before = bias(network)
    judge = judged_by(network, 0.2)
    result, verdict = kept_if_better(judge, network.shrunk, lambda: move_bias(network, 1e4))
    assert result is None
    assert verdict is not None
    assert (verdict.measure, verdict.outcome, verdict.is_taken) == ("accuracy", "kept", False)
    assert verdict.before == verdict.after == 0.8
    assert verdict.num_images == COUNT
    assert torch.equal(bias(network), before)


def test_equally_many_right_answers_bring_the_old_weights_back() -> None:
    network = pair()
    before = bias(network)
    _, verdict = kept_if_better(
        judged_by(network, 0.2), network.shrunk, lambda: move_bias(network, 1e-7)
    )
    assert verdict is not None
    assert verdict.outcome == "kept"
    assert torch.equal(bias(network), before)


def test_numbers_of_which_one_is_always_the_largest_are_no_classes_unless_it_is_known() -> None:
    network = shrink(small_residual(), 0.3)  # the same one of five for all noise
    unlabelled = ImageSet(noise(40), None, "none")
    assert Judge(network.graph, unlabelled).measure == "error"
    assert Judge(network.graph, unlabelled, are_targets_known=True).measure == "agreement"
    labelled = ImageSet(noise(40), torch.arange(40) % 5, "given")
    assert Judge(network.graph, labelled).measure == "accuracy"


class Scripted(Judge):
    """Gives prepared answers, whatever the network is; the last ones again and again."""

    def __init__(self, *answers: Tensor) -> None:
        self.measure, self._script = "accuracy", list(answers)

    @property
    def num_images(self) -> int:
        """As many as were prepared."""
        return len(self._script[0])

    def answers(self, network: fx.GraphModule, device: torch.device | None = None) -> Answers:
        """The next ones."""
        return Answers(self._script.pop(0) if len(self._script) > 1 else self._script[0])


def verdict_of(lost: int, gained: int, count: int, num_looks: int = 1) -> Verdict:
    """Of a step with which so many answers become wrong and right."""
    before, after = torch.ones(count).double(), torch.ones(count).double()
    before[:gained] = 0.0
    after[gained : gained + lost] = 0.0
    network = fx.symbolic_trace(torch.nn.Linear(1, 1))
    contest = Contest(Scripted(before, after), network)
    contest.look()
    return contest.end(num_looks)


def test_a_gain_is_taken_and_called_improved_only_where_it_is_more_than_chance() -> None:
    little, much = verdict_of(4, 6, 300), verdict_of(4, 30, 300)
    assert (little.is_taken, little.outcome) == (True, "unclear")
    assert (much.is_taken, much.outcome) == (True, "improved")
    assert much.after - much.before == pytest.approx(26 / 300)
    # By hand: centre 26 / 302, variance (35 / 302 - (26 / 302) ** 2) / 302 = 0.018954 ** 2.
    assert much.low == pytest.approx(26 / 302 - 1.959964 * 0.018954, abs=1e-5)


def test_the_best_of_many_looks_has_to_be_further_ahead_to_be_called_improved() -> None:
    once, best_of_many = verdict_of(0, 8, 300), verdict_of(0, 8, 300, num_looks=100)
    assert (once.outcome, best_of_many.outcome) == ("improved", "unclear")
    assert best_of_many.is_taken


def test_without_labels_agreement_with_the_original_decides() -> None:
    network = shrink(with_varied_answers(), 0.5)
    predicted = ImageSet(noise(40), torch.zeros(40, dtype=torch.int64), "predicted")
    judge = Judge(network.graph, predicted)
    assert judge.measure == "agreement"
    with torch.no_grad():
        same = network.shrunk(noise(40)).argmax(1) == network.graph.module(noise(40)).argmax(1)
    assert judge.answers(network.shrunk).value == pytest.approx(float(same.double().mean()))


class Maps(SmallResidual):
    """The same without a classifier."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps, [N, 8, 8, 8]."""
        x = self.stem_norm(self.stem(x)).relu()
        return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()


class OneNumber(SmallResidual):
    """One number for each image."""

    def forward(self, x: Tensor) -> Tensor:
        """Numbers, [N]."""
        return super().forward(x)[:, 0]


def test_networks_that_give_single_numbers_are_judged_too() -> None:
    network = shrink(randomise(OneNumber(), 0), 0.3)
    judge = Judge(network.graph, ImageSet(noise(70), torch.arange(70) % 5, "given"))
    _, verdict = kept_if_better(judge, network.shrunk, lambda: None)
    assert verdict is not None
    assert (verdict.measure, verdict.outcome) == ("error", "kept")
    assert verdict.before > 0


def test_maps_are_judged_by_their_error_as_a_share_of_the_variance() -> None:
    network = shrink(randomise(Maps(), 0), 0.3)
    images = noise(70)  # more than one batch
    judge = Judge(network.graph, ImageSet(images, None, "none"))
    with torch.no_grad():
        wanted, got = (net(images).double() for net in (network.graph.module, network.shrunk))
    expected = float((got - wanted).square().mean() / wanted.var(correction=0))
    assert judge.measure == "error"
    assert -judge.answers(network.shrunk).value == pytest.approx(expected, rel=1e-5)


def test_harm_comes_back_and_true_gains_stay_in_most_trials() -> None:
    """Simulated steps on 500 images of which one in eight changes."""
    random = np.random.default_rng(0)
    taken = {}
    for gain in (-0.10, -0.04, 0.02, 0.04):
        pairs = zip(
            random.binomial(500, (0.125 - gain) / 2, size=200),
            random.binomial(500, (0.125 + gain) / 2, size=200),
            strict=True,
        )
        verdicts = [verdict_of(int(lost), int(gained), 500) for lost, gained in pairs]
        taken[gain] = sum(verdict.is_taken for verdict in verdicts) / 200
    assert taken[-0.10] == 0.0
    assert taken[-0.04] < 0.02
    assert taken[0.02] > 0.85
    assert taken[0.04] > 0.98


def splits(num_selection: int) -> DataSplits:
    labels = torch.arange(40) % 4
    selection = ImageSet(noise(num_selection, 1), labels[:num_selection], "given")
    return DataSplits(
        ImageSet(noise(40), labels, "given"), None, None, "here", "0",
        selection=selection if num_selection else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("num_selection", "learned", "chosen"), [(0, 30, 10), (3, 30, 10), (10, 40, 10), (25, 40, 25)]
)
def test_hardly_any_selection_images_are_made_up_for_by_calibration_images(
    num_selection: int, learned: int, chosen: int
) -> None:
    data = held_apart(splits(num_selection))
    assert data.selection is not None
    assert (len(data.calibration), len(data.selection)) == (learned, chosen)


def test_images_are_divided_without_overlap_and_keep_their_labels() -> None:
    learned, held_out = divided(splits(0).calibration)
    assert learned.labels is not None
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [3] * 10
    together = torch.cat([learned.images, held_out.images])
    assert len(torch.unique(together, dim=0)) == 40


def test_a_step_that_is_undone_never_counts_as_improved() -> None:
    verdict = Verdict("accuracy", 0.6, 0.6, 0.0, 0.1, 500, is_taken=False)
    assert verdict.outcome == "kept"
