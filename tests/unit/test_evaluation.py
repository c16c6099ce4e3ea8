"""Scores by hand: what is counted, how it is ranked, and what the protocol line says of it."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

import numpy as np
import pytest
import torch

from farzi import evaluation
from farzi.data import PreparedData, Sequences, Vocabulary
from farzi.errors import DataError, NonFiniteError
from farzi.evaluation import evaluate, validation_loss
from farzi.models import Head, SASRec

ITEMS = 7
STUDENT = SASRec(num_tokens=ITEMS, context_length=4, width=8)
PARAMS = STUDENT.init(torch.Generator().manual_seed(0))
# Shorter than the context, as long, one longer, and several windows long.
RAGGED = Sequences.from_lists(
    [[0, 1], [2, 3, 4, 5], [1, 1, 2, 3, 6], [(3 * i + i // 4) % ITEMS for i in range(19)], [6, 5]]
)
DATA = PreparedData(
    task="recommend",
    name="shop",
    train=Sequences.from_lists([[0, 1, 2], [2, 2]]),
    validation=RAGGED,
    test=RAGGED,
    vocabulary=Vocabulary(tuple("abcdefg")),
    seen_items="keep",
    fingerprint="sha256:0",
    split_kind="users",
    split_seed=0,
    train_users_hash="sha256:1",
    protocol={"k_core": 0, "min_length": 2, "repeats": "keep"},
)
TEXT = dataclasses.replace(
    DATA,
    task="language",
    vocabulary=Vocabulary(("<unk>", "<eos>", *"abcde")),
    split_kind="lines",
    protocol={"vocabulary_size": 7, "tokens": "words"},
)


def nll_of(row, target, start, params=PARAMS, student=STUDENT):
    """Loss of token `target` of a row for a model that reads the tokens from `start` on."""
    table = student.embedding(params)
    hidden = student.hidden(params, table[torch.tensor(row[start:target].tolist())][None])
    return -(hidden[0, -1] @ table.T).log_softmax(-1)[int(row[target])].item()


def by_hand(sequences, context=4, stride=2):
    """The losses of each row, one target at a time: (target, loss) in the window that is due."""
    rows = []
    for row in sequences:
        losses = []
        for target in range(1, len(row)):
            start = 0
            if target > context:
                moved = -(-(target - context) // stride) * stride
                start = min(moved, len(row) - 1 - context)
            losses.append(nll_of(row, target, start))
        rows.append(losses)
    return rows


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_event_is_scored_once_in_the_window_that_is_due(stride):
    expected = by_hand(RAGGED, stride=stride)
    assert [len(row) for row in expected] == [1, 3, 4, 18, 1]
    scores = evaluate(STUDENT, PARAMS, DATA, stride=stride)
    np.testing.assert_allclose(
        scores.per_user["loss"], [np.mean(row) for row in expected], rtol=1e-5
    )
    assert scores.metrics["loss"] == pytest.approx(
        np.mean([np.mean(row) for row in expected]), rel=1e-5
    )
    assert scores.counts == {"users": 5, "events_scored": 27}
    assert validation_loss(STUDENT, PARAMS, RAGGED, stride=stride) == pytest.approx(
        np.mean([loss for row in expected for loss in row]), rel=1e-5
    )


def test_the_default_stride_is_half_the_context():
    assert validation_loss(STUDENT, PARAMS, RAGGED) == validation_loss(
        STUDENT, PARAMS, RAGGED, stride=2
    )
    assert validation_loss(STUDENT, PARAMS, RAGGED) != validation_loss(
        STUDENT, PARAMS, RAGGED, stride=4
    )


@dataclasses.dataclass(frozen=True)
class Recorder:
    """A student that tells which positions it was asked to score: each token's vector is its id."""

    num_tokens: int
    context_length: int
    width: int = 1
    name: ClassVar[str] = "recorder"

    def embedding(self, params):
        return params["embedding"]

    def head(self, params):
        return Head(params["embedding"])

    def hidden(self, params, embedded, generator=None):
        assert embedded.shape[1] <= self.context_length
        return embedded


@pytest.mark.parametrize("data", [DATA, TEXT], ids=["recommend", "language"])
@pytest.mark.parametrize("stride", [None, 1, 5])
def test_what_the_protocol_line_says_is_what_is_counted(data, stride, monkeypatch):
    """Every event but the first of each row, and nothing twice, at the stride that is stated."""
    rows = [list(range(i, i + n)) for i, n in ((0, 2), (2, 5), (7, 6), (13, 31), (44, 3))]
    if data.task == "language":  # after <unk> and <eos>
        rows = [[token + 2 for token in row] for row in rows]
    log = Sequences.from_lists(rows)
    names = (["<unk>", "<eos>"] if data.task == "language" else []) + [f"t{i}" for i in range(47)]
    data = dataclasses.replace(data, test=log, vocabulary=Vocabulary(tuple(names)))
    student = Recorder(len(names), context_length=6)
    params = {"embedding": torch.arange(len(names), dtype=torch.float32)[:, None] / 100}
    line = data.protocol_line(student.context_length, stride=stride)
    (context,) = re.findall(r"\| context (\d+) \|", line)
    (stated,) = re.findall(r"once, windows at stride (\d+)", line)

    positions = []
    logits = evaluation.logits

    def recording(student, params, hidden):
        positions.extend((hidden[:, 0] * 100).round().int().tolist())
        return logits(student, params, hidden)

    monkeypatch.setattr(evaluation, "logits", recording)
    evaluate(student, params, data, stride=int(stated))
    monkeypatch.undo()
    scores = evaluate(student, params, data, stride=stride)

    read = [row if data.task == "recommend" else [1, *row] for row in rows]
    scored = positions[: sum(len(row) - 1 for row in read)]
    assert sorted(scored) == sorted(token for row in read for token in row[:-1])
    name = "events_scored" if data.task == "recommend" else "tokens_scored"
    # 47 events of five users; 47 words of five sentences, each sentence read after an `<eos>`.
    assert scores.counts[name] == len(scored) == (42 if data.task == "recommend" else 47)
    assert (int(context), int(stated)) == (6, 3 if stride is None else stride)
    assert line.count("every event but a user's first") + line.count("every token") == 1


def test_memory_is_bounded_and_blocks_change_nothing(monkeypatch):
    """Blocks of one row of logits and batches of one window: the same losses."""
    whole = evaluate(STUDENT, PARAMS, DATA)
    monkeypatch.setattr(evaluation, "_LOGIT_BYTES", {"cpu": 4 * ITEMS * 3})
    monkeypatch.setattr(evaluation, "_ACTIVATION_BYTES", {"cpu": 1})
    monkeypatch.setattr(evaluation, "_RANKED_ITEMS", ITEMS)
    shapes = []
    logits = evaluation.logits

    def recording(student, params, hidden):
        shapes.append(tuple(hidden.shape))
        return logits(student, params, hidden)

    monkeypatch.setattr(evaluation, "logits", recording)
    small = evaluate(STUDENT, PARAMS, DATA)
    assert max(rows for rows, _ in shapes) == 3
    assert sum(rows for rows, _ in shapes) == 27 + 5  # the events, and the five rankings
    for name, values in whole.per_user.items():
        np.testing.assert_allclose(small.per_user[name], values, rtol=1e-6, err_msg=name)


def test_a_sequence_with_nothing_to_predict_is_refused_by_name():
    short = dataclasses.replace(DATA, test=Sequences.from_lists([[0, 1], [2]]))
    with pytest.raises(DataError, match="shop: sequence 1 of the test part has fewer than two"):
        evaluate(STUDENT, PARAMS, short)
    with pytest.raises(DataError, match="no sequence has two tokens or more"):
        validation_loss(STUDENT, PARAMS, Sequences.from_lists([[1], []]))
    # A look at the validation loss passes over it.
    assert validation_loss(STUDENT, PARAMS, short.test) == pytest.approx(
        nll_of(np.array([0, 1]), 1, 0), rel=1e-5
    )


@pytest.mark.parametrize("data", [DATA, TEXT], ids=["recommend", "language"])
def test_a_model_that_diverged_has_no_scores(data):
    params = PARAMS | {"embedding": torch.full_like(PARAMS["embedding"], float("nan"))}
    with pytest.raises(NonFiniteError, match="not all finite"):
        evaluate(STUDENT, params, data)
