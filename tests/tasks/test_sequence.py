"""Reading without an alignment: how answers are read, judged and learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError, UsageError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.image_pool import check_labels
from fairdeploy.records import DataSplits, ImageSet, Preprocessing
from fairdeploy.tasks import task_for
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.sequence import Sequence, read_sequences

END = -1
WORDS = torch.tensor([[1, 2, 2], [3, 1, END], [2, END, END], [1, 3, 1]])
STEPS = [[1, 0, 2, 0, 2, 0, 0], [3, 3, 0, 1, 1, 1, 0], [0, 0, 2, 2, 2, 2, 0], [1, 3, 3, 1, 0, 0, 0]]


def answers(steps: list[list[int]], classes: int = 5) -> Tensor:
    """Scores [N, steps, classes] whose best are these."""
    return 4.0 * functional.one_hot(torch.tensor(steps), classes).float()


def test_repeats_become_one_and_blanks_go() -> None:
    assert Sequence().kept(answers(STEPS))[:, :3].tolist() == WORDS.tolist()
    assert Sequence().kept(answers(STEPS))[:, 3:].eq(END).all()


def test_words_and_characters_are_counted() -> None:
    wrong = [[1, 0, 2, 0, 0, 0, 0], [3, 3, 0, 1, 1, 1, 0], [0, 0, 4, 2, 2, 2, 0], STEPS[3]]
    task, kept = Sequence(), Sequence().kept(answers(wrong))
    # '12' for '122' lacks one, '42' for '2' has one too many: two faults in nine characters.
    assert task.quality(kept, WORDS).value == pytest.approx(2 / 4)
    assert task.second_quality(kept, WORDS).value == pytest.approx(1 - 2 / 9)
    assert task.marks(answers(wrong), WORDS).tolist() == pytest.approx([2 / 3, 1, 0, 1])
    perfect = task.kept(answers(STEPS))
    difference = task.difference(perfect, kept, WORDS)
    assert (difference.value, difference.num_lost) == (-0.5, 2)
    assert difference.low <= -0.5 <= difference.high < 0.01
    change = task.second_difference(perfect, kept, WORDS)
    assert change.value == pytest.approx(-2 / 9)
    assert change.low <= change.value <= change.high


@pytest.mark.parametrize("are_last", [True, False])
@pytest.mark.parametrize(
    ("order", "blank", "shift"),
    [([0, 1, 2, 3, 4], 0, 0), ([0, 1, 2, 3, 4], 0, 1), ([4, 0, 1, 2, 3], 4, 0)],
)
def test_the_reading_is_found_from_labels(
    order: list[int], blank: int, shift: int, are_last: bool
) -> None:
    codes = torch.tensor(order)
    scores = answers(codes[torch.tensor(STEPS)].tolist())
    labels = torch.where(WORDS == END, END, codes[WORDS.clamp_min(0)] - shift)
    found = read_sequences(scores if are_last else scores.transpose(1, 2), labels)
    assert found is not None
    assert (found.class_dim, found.blank, found.shift) == (2 if are_last else 1, blank, shift)
    assert found.share_right == 1.0
    assert torch.equal(found.own_targets(scores.movedim(2, found.class_dim))[:, :3], labels)


def test_labels_of_other_images_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 5, (64, 3), generator=generator)
    steps = torch.stack([words, torch.zeros_like(words)], 2).flatten(1)
    data = DataSplits(ImageSet(torch.zeros(64, 1, 2, 2), words, "given"), None, None, "", "")
    original = Original(
        lambda _: torch.zeros(64, 5), lambda _: None, None,
        Preprocessing(1, 2, 2, (0.0,), (1.0,)), 5,
    )  # fmt: skip
    right = read_sequences(answers(steps.tolist()), words)
    assert right is not None
    (text,) = right.checked(data, original, names_are_given=False).warnings
    assert "class 0 as the blank and classes in dimension 2 of the answers: 100.0%" in text
    wrong = read_sequences(answers(steps.roll(7, 0).tolist()), words)
    assert wrong is not None
    with pytest.raises(DataError, match=r"has \d\d\.\d% of those of other images right by chance"):
        wrong.checked(data, original, names_are_given=False)


def test_probabilities_are_read_as_such() -> None:
    found = read_sequences(answers(STEPS).softmax(2), WORDS)
    assert found is not None
    assert found.are_probabilities
    same = Sequence().loss(answers(STEPS), WORDS)
    torch.testing.assert_close(found.loss(answers(STEPS).softmax(2), WORDS), same)


def test_loss_is_the_probability_of_all_alignments() -> None:
    scores = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    p = scores[0].softmax(1)
    ways = p[0, 1] * p[1, 1] + p[0, 0] * p[1, 1] + p[0, 1] * p[1, 0]
    torch.testing.assert_close(Sequence().loss(scores, torch.tensor([[1]])), -ways.log())
    assert Sequence().loss(scores.requires_grad_(), None).requires_grad


def test_divergence_is_none_of_equal_answers() -> None:
    scores = answers(STEPS)
    assert float(Sequence().divergence(scores, scores)) == pytest.approx(0, abs=1e-6)
    assert float(Sequence().divergence(scores, scores.flip(1))) > 0.1


def test_labels_tell_the_task_where_they_are_sure() -> None:
    assert task_for(answers(STEPS), WORDS, None).words.name == "sequence"
    one_each = torch.tensor(STEPS)
    assert task_for(answers(STEPS), one_each, None).words.name == "imitation"
    assert task_for(answers(STEPS), one_each, "sequence").words.name == "sequence"
    with pytest.raises(DataError, match=r"labels up to 9 and 3 long do not fit .* as sequences"):
        task_for(answers(STEPS), WORDS + 6, None)
    with pytest.raises(UsageError, match="--task sequence needs labels"):
        task_for(answers(STEPS), None, "sequence")


def test_texts_become_classes() -> None:
    found = check_labels(np.array(["cab", "b", ""]), 3, "x", ["a", "b", "c"])
    assert found.tolist() == [[2, 0, 1], [1, END, END], [END, END, END]]
    with pytest.raises(DataError, match="x has the label 'cat', and 't' is none of the 3 class"):
        check_labels(np.array(["cat"]), 1, "x", ["a", "b", "c"])
    with pytest.raises(DataError, match="x has texts as labels; name the characters"):
        check_labels(np.array(["cat"]), 1, "x", None)


def test_texts_of_several_lengths_are_no_pickles(tmp_path: Path) -> None:
    ragged = np.array([[1, 2], [1]] * 6, dtype=object)
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 4, 4, 1), np.uint8), labels=ragged)
    with pytest.raises(DataError, match="holds Python objects; save plain arrays"):
        load_data(str(tmp_path / "a.npz"), Preprocessing(1, 4, 4, (0.0,), (1.0,)))
