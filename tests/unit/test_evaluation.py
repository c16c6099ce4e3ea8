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
from farzi.evaluation import (
    evaluate,
    most_popular,
    rounded,
    sequences_of,
    to_look_at,
    validation_loss,
)
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
    assert scores.counts["events_scored"] == 27
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
class Bigram:
    """A student whose scores can be set: `params["next"][i, j]` is the score of j after i.

    With `reads_all` its hidden state counts every token that was read instead of the last alone.
    """

    num_tokens: int
    context_length: int = 4
    reads_all: bool = False

    @property
    def width(self):
        return self.num_tokens

    def embedding(self, params):
        return torch.eye(self.num_tokens)

    def head(self, params):
        return RecordingHead(params["next"].T)

    def hidden(self, params, embedded, generator=None):
        assert embedded.shape[1] <= self.context_length
        return embedded.cumsum(1) if self.reads_all else embedded


class RecordingHead(Head):
    """Notes the token read last by each position that is scored, and the shapes."""

    tokens: ClassVar[list[int]] = []
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def scores(self, hidden):
        self.tokens.extend(hidden.argmax(-1).tolist())
        self.shapes.append(tuple(hidden.shape))
        return super().scores(hidden)


@pytest.fixture
def recorded():
    RecordingHead.tokens.clear()
    RecordingHead.shapes.clear()
    return RecordingHead


@pytest.mark.parametrize("data", [DATA, TEXT], ids=["recommend", "language"])
@pytest.mark.parametrize("stride", [None, 1, 5])
def test_what_the_protocol_line_says_is_what_is_counted(data, stride, recorded):
    """Every event but the first of each row, and nothing twice, at the stride that is stated."""
    rows = [list(range(i, i + n)) for i, n in ((0, 2), (2, 5), (7, 6), (13, 31), (44, 3))]
    if data.task == "language":  # after <unk> and <eos>
        rows = [[token + 2 for token in row] for row in rows]
    log = Sequences.from_lists(rows)
    names = (["<unk>", "<eos>"] if data.task == "language" else []) + [f"t{i}" for i in range(47)]
    data = dataclasses.replace(data, test=log, vocabulary=Vocabulary(tuple(names)))
    student = Bigram(len(names), context_length=6)
    params = {"next": torch.zeros(len(names), len(names))}
    line = data.protocol_line(student.context_length, stride=stride)
    (context,) = re.findall(r"\| context (\d+) \|", line)
    (stated,) = re.findall(r"once, windows at stride (\d+)", line)

    evaluate(student, params, data, stride=int(stated))
    read = [row if data.task == "recommend" else [1, *row] for row in rows]
    scored = recorded.tokens[: sum(len(row) - 1 for row in read)]
    assert sorted(scored) == sorted(token for row in read for token in row[:-1])
    scores = evaluate(student, params, data, stride=stride)
    name = "events_scored" if data.task == "recommend" else "tokens_scored"
    # 47 events of five users; 47 words of five sentences, each sentence read after an `<eos>`.
    assert scores.counts[name] == len(scored) == (42 if data.task == "recommend" else 47)
    assert (int(context), int(stated)) == (6, 3 if stride is None else stride)
    assert line.count("every event but a user's first") + line.count("every token") == 1


def test_memory_is_bounded_and_blocks_change_nothing(monkeypatch, recorded):
    """Three rows of logits at a time, batches of one window, one user ranked: the same scores."""
    student = Bigram(ITEMS, reads_all=True)
    params = {"next": torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(1))}
    whole = evaluate(student, params, DATA)
    recorded.shapes.clear()
    monkeypatch.setattr(evaluation, "_LOGIT_BYTES", {"cpu": 4 * ITEMS * 3})
    monkeypatch.setattr(evaluation, "_LOGIT_ROWS", 1)
    monkeypatch.setattr(evaluation, "_ACTIVATION_BYTES", {"cpu": 1})
    monkeypatch.setattr(evaluation, "_RANKED_ITEMS", ITEMS)
    small = evaluate(student, params, DATA)
    rows = [shape[0] for shape in recorded.shapes]
    assert max(rows) == 3
    assert sum(rows[:-5]) == 27
    assert rows[-5:] == [1] * 5  # the five rankings
    for name, values in whole.per_user.items():
        np.testing.assert_allclose(small.per_user[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("num_tokens", "rows"), [(1_000, 262), (8_192, 32), (60_000, 32), (100_000, 20), (9_000_000, 1)]
)
def test_rows_of_logits_are_enough_for_the_table_and_bounded(num_tokens: int, rows: int):
    """1 MiB of them, but at least 32 rows; of those no more than 8 MiB."""
    assert evaluation._logit_rows(num_tokens, torch.zeros(1)) == rows


def test_a_sequence_with_nothing_to_predict_is_refused_by_name():
    short = dataclasses.replace(DATA, test=Sequences.from_lists([[0, 1], [2]]))
    with pytest.raises(DataError, match="shop: sequence 1 of the test part has fewer than two"):
        evaluate(STUDENT, PARAMS, short)
    with pytest.raises(DataError, match=r"^no sequence has two tokens or more"):
        validation_loss(STUDENT, PARAMS, Sequences.from_lists([[1], []]))
    # A look at the validation loss passes over it.
    assert validation_loss(STUDENT, PARAMS, short.test) == pytest.approx(
        nll_of(np.array([0, 1]), 1, 0), rel=1e-5
    )


@pytest.mark.parametrize("data", [DATA, TEXT], ids=["recommend", "language"])
def test_a_model_that_diverged_has_no_scores(data):
    params = PARAMS | {"embedding": torch.full_like(PARAMS["embedding"], float("nan"))}
    with pytest.raises(NonFiniteError, match=r"^the losses of the model are not all finite"):
        evaluate(STUDENT, params, data)


# ------------------------------------------------------------------------------ ranks by hand


def shop(rows, seen_items, train=((0, 1, 2), (2, 2)), num_items=ITEMS):
    return dataclasses.replace(
        DATA,
        train=Sequences.from_lists(train),
        test=Sequences.from_lists(rows),
        vocabulary=Vocabulary(tuple("abcdefghijkl"[:num_items])),
        seen_items=seen_items,
    )


AFTER_TWO = [5.0, 4.0, 3.0, 2.0, 2.0, 1.0, 6.0]
BY_HAND = {"next": torch.tensor([AFTER_TWO if item == 2 else [0.0] * ITEMS for item in range(7)])}


@pytest.mark.parametrize(
    ("seen_items", "rank", "candidates"),
    [("keep", 5.5, 7), ("leave-out", 2.5, 4)],
)
def test_seen_items_are_left_out_or_kept(seen_items, rank, candidates):
    """0, 1 and 2 were seen. Item 6 scores above the target 3, item 4 ties with it."""
    scores = evaluate(Bigram(ITEMS), BY_HAND, shop([[0, 1, 2, 3]], seen_items))
    assert scores.metrics["HR@10"] == 1
    assert scores.metrics["nDCG@10"] == pytest.approx(1 / np.log2(1 + rank))
    assert scores.metrics["nDCG@100"] == scores.metrics["nDCG@10"]
    assert scores.metrics["MRR"] == pytest.approx(1 / rank)
    assert scores.metrics["AUC"] == pytest.approx((candidates - rank) / (candidates - 1))


def test_a_target_that_was_seen_is_ranked_all_the_same():
    """Left out: 0 and 2; the target 1, seen as well, is second to 6 among the five that remain."""
    scores = evaluate(Bigram(ITEMS), BY_HAND, shop([[0, 1, 2, 1]], "leave-out"))
    assert scores.metrics["MRR"] == pytest.approx(1 / 2)
    assert scores.metrics["AUC"] == pytest.approx((5 - 2) / (5 - 1))


def test_cutoffs_are_10_and_100():
    num = 120
    scores_of = {"next": -torch.arange(num, dtype=torch.float32).expand(num, num)}
    data = dataclasses.replace(
        DATA,
        vocabulary=Vocabulary(tuple(f"item {i}" for i in range(num))),
        test=Sequences.from_lists([[0, target] for target in (9, 10, 99, 100)]),
    )
    scores = evaluate(Bigram(num), scores_of, data)
    assert scores.per_user["HR@10"].tolist() == [1, 0, 0, 0]
    assert scores.per_user["HR@100"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(
        scores.per_user["nDCG@100"], [1 / np.log2(11), 1 / np.log2(12), 1 / np.log2(101), 0]
    )
    np.testing.assert_allclose(scores.per_user["nDCG@10"], [1 / np.log2(11), 0, 0, 0])
    np.testing.assert_allclose(scores.per_user["MRR"], [1 / 10, 1 / 11, 1 / 100, 1 / 101])
    for name, values in scores.per_user.items():
        assert scores.metrics[name] == pytest.approx(values.mean()), name
    assert scores.as_dict() == scores.metrics


def test_the_ranking_reads_as_much_as_the_model_can_and_no_more():
    """Of eight items before the target the last four: each of those adds to its own score."""
    student = Bigram(10, context_length=4, reads_all=True)
    params = {"next": torch.eye(10)}
    row = [0, 0, 0, 0, 1, 2, 3, 4, 5]
    scores = evaluate(student, params, shop([row], "keep", num_items=10))
    # 1, 2, 3 and 4 were read and score above; 0, too far back, ties with 5 to 9.
    assert scores.metrics["MRR"] == pytest.approx(1 / (1 + 4 + 5 / 2))
    short = evaluate(student, params, shop([[7, 5]], "keep", num_items=10))
    assert short.metrics["MRR"] == pytest.approx(1 / (1 + 1 + 8 / 2))


def test_users_keep_their_order_whatever_their_lengths():
    rows = [[0, 1, 2, 4, 5], [2, 6], [3, 1, 2, 2, 2, 2, 2, 0], [2, 5], [1, 2, 3]]
    together = evaluate(Bigram(ITEMS), BY_HAND, shop(rows, "leave-out"))
    for place, row in enumerate(rows):
        alone = evaluate(Bigram(ITEMS), BY_HAND, shop([row], "leave-out"))
        for name, values in together.per_user.items():
            assert values[place] == pytest.approx(alone.per_user[name][0]), (place, name)


def test_users_with_nothing_left_to_rank_are_left_out_of_auc_and_counted():
    everything = [0, 1, 3, 4, 5, 6, 2, 2]
    data = shop([everything, [0, 1, 2, 3], [1, 0, 3, 4, 5, 2, 6]], "leave-out")
    scores = evaluate(Bigram(ITEMS), BY_HAND, data)
    assert scores.counts["users"] == 3
    assert scores.counts["nothing_to_rank"] == 2
    assert len(scores.per_user["MRR"]) == 3
    np.testing.assert_allclose(scores.per_user["AUC"], [(4 - 2.5) / 3])
    assert scores.metrics["AUC"] == pytest.approx((4 - 2.5) / 3)
    nobody = evaluate(Bigram(ITEMS), BY_HAND, shop([everything], "leave-out"))
    assert "AUC" not in nobody.metrics
    assert nobody.counts["nothing_to_rank"] == 1
    kept = evaluate(Bigram(ITEMS), BY_HAND, shop([everything], "keep"))
    assert kept.counts["nothing_to_rank"] == 0
    # One other item is something to rank: 6 stands above the target 5.
    two = evaluate(Bigram(ITEMS), BY_HAND, shop([[0, 1, 3, 4, 2, 5]], "leave-out"))
    assert two.metrics["AUC"] == 0
    assert two.counts["nothing_to_rank"] == 0


def test_targets_that_no_training_user_had_are_counted():
    for rows, count in (
        ([[0, 1], [0, 3], [0, 2], [2, 6]], 2),
        ([[0, 3], [0, 1]], 1),
        ([[0, 1], [0, 4]], 1),
        ([[3, 1]], 0),
    ):
        scores = evaluate(Bigram(ITEMS), BY_HAND, shop(rows, "keep"))
        assert scores.counts["targets_without_training"] == count


def test_most_popular_by_hand():
    """Training counts 2, 3, 3, 0, 1: item 4 is fourth, and second once 1 and 2 are left out."""
    train = [[0, 1, 2], [0, 1, 2], [1, 2, 4]]
    kept = most_popular(shop([[1, 2, 4]], "keep", train, 5))
    assert kept.metrics["MRR"] == pytest.approx(1 / 4)
    assert kept.metrics["AUC"] == pytest.approx(1 / 4)
    assert kept.counts["users"] == 1
    left_out = most_popular(shop([[1, 2, 4]], "leave-out", train, 5))
    assert left_out.metrics["MRR"] == pytest.approx(1 / 2)
    # The catalogue goes on after the last item that was trained on, and counts stay exact.
    more = most_popular(shop([[0, 6]], "keep", train, 7))
    assert more.metrics["MRR"] == pytest.approx(1 / (1 + 4 + 2 / 2))
    tied = most_popular(shop([[0, 1], [0, 3]], "keep", train, 5))
    np.testing.assert_allclose(tied.per_user["MRR"], [1 / 1.5, 1 / 5])
    data = dataclasses.replace(
        shop([[0, 3]], "keep", train, 5), validation=Sequences.from_lists([[0, 2], [1, 4], [1, 0]])
    )
    np.testing.assert_allclose(
        most_popular(data, "validation").per_user["MRR"], [1 / 1.5, 1 / 4, 1 / 3]
    )


def test_the_part_that_is_asked_for_is_scored():
    data = dataclasses.replace(
        shop([[2, 6]], "keep"),
        validation=Sequences.from_lists([[2, 0], [2, 5]]),
        train=Sequences.from_lists([[2, 1]]),
    )
    found = {
        part: evaluate(Bigram(ITEMS), BY_HAND, data, part).per_user["MRR"].tolist()
        for part in ("train", "validation", "test")
    }
    assert found == {"train": [1 / 3], "validation": [1 / 2, 1 / 7], "test": [1]}
    assert evaluate(Bigram(ITEMS), BY_HAND, data).per_user["MRR"].tolist() == [1]


def test_refuses_what_does_not_belong_together():
    with pytest.raises(DataError, match="the model knows 9 tokens and shop has 7"):
        evaluate(Bigram(9), {"next": torch.zeros(9, 9)}, DATA)
    empty = dataclasses.replace(DATA, test=Sequences.from_lists([]))
    with pytest.raises(DataError, match="shop: the test part is empty"):
        evaluate(Bigram(ITEMS), BY_HAND, empty)


# --------------------------------------------------------------------------- language by hand


def test_language_by_hand():
    """Sentences of two words and of one, `<eos>` in front of each, at probabilities set by hand."""
    after = torch.full((ITEMS, ITEMS), 1e-30)
    after[1, 2], after[1, 3] = 0.5, 0.25  # after <eos>: 2 is the first guess
    after[1, 4] = 0.25
    after[2, 5], after[2, 1] = 0.8, 0.2
    after[5, 1], after[5, 6] = 0.5, 0.5  # a tie for the first guess
    after[3, 1], after[3, 2] = 0.1, 0.9
    data = dataclasses.replace(TEXT, test=Sequences.from_lists([[2, 5, 1], [3, 1]]))
    scores = evaluate(Bigram(ITEMS), {"next": after.log()}, data)
    first, second = 0.5 * 0.8 * 0.5, 0.25 * 0.1
    assert scores.metrics["perplexity"] == pytest.approx((first * second) ** (-1 / 5), rel=1e-5)
    assert scores.metrics["sentence_perplexity"] == pytest.approx(
        (first ** (-1 / 3) + second ** (-1 / 2)) / 2, rel=1e-5
    )
    assert scores.metrics["accuracy"] == pytest.approx((1 + 1 + 0.5) / 5)
    np.testing.assert_allclose(
        scores.per_user["loss"], [-np.log(first) / 3, -np.log(second) / 2], rtol=1e-5
    )
    np.testing.assert_allclose(scores.per_user["accuracy"], [2.5 / 3, 0])
    assert scores.counts == {"sentences": 2, "tokens_scored": 5}
    assert set(scores.metrics) == {"perplexity", "sentence_perplexity", "accuracy"}


def test_a_long_line_cannot_be_better_than_its_tokens():
    """Only its last words used to be scored: a line whose end is easy looked easy as a whole."""
    after = torch.full((ITEMS, ITEMS), 1 / ITEMS)
    after[6] = torch.tensor([1e-30] * 6 + [1.0])
    line = [2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 6] + [6] * 8
    data = dataclasses.replace(TEXT, test=Sequences.from_lists([line]))
    scores = evaluate(Bigram(ITEMS), {"next": after.log()}, data)
    assert scores.metrics["perplexity"] == pytest.approx(ITEMS ** (12 / 20), rel=1e-5)


def test_sentences_are_read_after_eos_and_logs_as_they_are():
    assert sequences_of(DATA, "test") is DATA.test
    text = dataclasses.replace(TEXT, validation=Sequences.from_lists([[2, 1], [5, 6, 1]]))
    assert [row.tolist() for row in sequences_of(text, "validation")] == [[1, 2, 1], [1, 5, 6, 1]]


def test_rounded_keeps_six_digits():
    assert rounded({"a": 1.23456789, "b": 2.0}) == {"a": 1.234568, "b": 2.0}
    assert rounded({"a": 1.23456789}, 2) == {"a": 1.23}


def test_a_look_reads_evenly_spaced_sequences_of_a_large_part():
    many = Sequences.from_lists([[i % 7, (i + 1) % 7] for i in range(25_000)])
    looked = to_look_at(many)
    assert len(looked) == 10_000
    assert to_look_at(looked) is looked
    first, last = looked[0].tolist(), looked[len(looked) - 1].tolist()
    assert (first, last) == (many[0].tolist(), many[24_999].tolist())


def test_a_look_at_long_sequences_reads_fewer_of_them():
    long = Sequences.from_lists([[i % 7] * 30 for i in range(100)])
    assert len(to_look_at(long, most_tokens=3_000)) == 100
    looked = to_look_at(long, most_tokens=1_200)
    assert (len(looked), looked.num_tokens) == (40, 1_200)
    assert looked[39].tolist() == long[99].tolist()
    assert len(to_look_at(long, most_tokens=1)) == 1
