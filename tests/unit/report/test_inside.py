"""The look inside, on sequences whose numbers can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farzi.artifact import Artifact
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.data.vocabulary import Vocabulary
from farzi.report.inside import _correlation, _ranks, look_inside

SHARP = 200.0  # a logit after which one token has all of the probability


def make(rows, labels=None, vocabulary=("a", "b", "c", "d"), lengths=None):
    """An artifact whose soft tokens are one-hot rows, and uniform where a row has None."""
    size = len(vocabulary)

    def latent(values):
        eye = torch.eye(size) * SHARP
        uniform = torch.zeros(size)
        return torch.stack(
            [
                torch.stack([uniform if token is None else eye[token] for token in row])
                for row in values
            ]
        )

    return Artifact(
        latent=latent(rows),
        decoder=torch.eye(size),
        label_latent=None if labels is None else latent(labels),
        lengths=None if lengths is None else torch.tensor(lengths),
        temperature=1.0,
        recipe={"student": {}},
        source={
            "name": "x",
            "task": "recommend",
            "fingerprint": "sha256:" + "0" * 64,
            "split_kind": "users",
            "split_seed": 0,
            "train_users_hash": "sha256:" + "0" * 64,
            "seen_items": "keep",
            "protocol": {},
        },
        vocabulary=list(vocabulary),
    )


def data_of(rows, vocabulary=("a", "b", "c", "d")) -> PreparedData:
    sequences = Sequences.from_lists(rows)
    return PreparedData(
        task="recommend",
        name="x",
        train=sequences,
        validation=sequences,
        test=sequences,
        vocabulary=Vocabulary(vocabulary),
        seen_items="keep",
        fingerprint="",
        split_kind="users",
        split_seed=0,
        train_users_hash="",
        protocol={},
    )


def test_entropy_is_in_bits() -> None:
    inside = look_inside(make([[0, None]]), data_of([[0, 1, 2, 3]]), str)
    (tokens,) = inside.kinds
    assert inside.max_bits == 2.0
    assert tokens.mean_bits == pytest.approx(1.0)
    assert tokens.certain == 0.5
    assert sum(tokens.entropy) == pytest.approx(1.0)
    assert (tokens.entropy[0], tokens.entropy[-1]) == (0.5, 0.5)


def test_padding_is_not_looked_at() -> None:
    inside = look_inside(make([[0, 3, 3], [1, 2, 0]], lengths=[1, 3]), data_of([[0, 1, 2]]), str)
    assert [len(example.places) for example in inside.examples] == [1, 3]
    assert inside.coverage[0].items == 3  # d stands in the padding alone


def test_coverage_counts_items_and_the_events_they_stand_for() -> None:
    inside = look_inside(make([[0, 1]]), data_of([[0, 0, 0, 1], [2, 3]]), str)
    likeliest, expected = inside.coverage
    assert (likeliest.items, likeliest.of_catalogue) == (2, 0.5)
    assert likeliest.of_events == pytest.approx(4 / 6)
    assert expected.items == 2


def test_followers_stay_inside_a_sequence() -> None:
    inside = look_inside(make([[0, 1, 0, 1]]), data_of([[0, 1], [0, 1], [0, 2]]), str)
    (first, *_) = inside.followers
    assert first.name == "a"
    assert [name for name, _ in first.real] == ["b", "c"]  # never a: it begins the next sequence
    assert [share for _, share in first.real] == pytest.approx([2 / 3, 1 / 3])
    assert first.synthetic[0] == ("b", pytest.approx(1.0))


def test_labels_say_what_follows_where_there_are_any() -> None:
    inside = look_inside(make([[0, 1]], labels=[[3, 3]]), data_of([[0, 1, 3]]), str)
    followers = {follower.name: follower.synthetic for follower in inside.followers}
    assert followers["a"] == followers["b"] == (("d", pytest.approx(1.0)),)
    assert followers["c"] == ()  # the synthetic sequence has none
    assert [kind.name for kind in inside.kinds] == ["tokens", "labels"]
    assert inside.examples[0].places[0].labels == (("d", pytest.approx(1.0)),)


def test_the_nearest_real_sequence_is_found() -> None:
    inside = look_inside(make([[0, 1], [2, 3]]), data_of([[3, 2], [1, 0], [0, 3]]), str)
    first, last = inside.examples
    assert first.nearest == (("b", True), ("a", True))
    assert last.nearest == (("d", True), ("c", True))
    assert first.likeness == pytest.approx(1.0)
    assert (first.shared, first.different) == (2, 2)
    hidden = look_inside(make([[0, 1]]), data_of([[1, 0, 2]]), str, real=False)
    assert hidden.examples[0].nearest == ()


def test_popularity_is_compared_by_rank() -> None:
    assert _ranks(np.array([3.0, 1.0, 3.0])).tolist() == [1.5, 0.0, 1.5]
    assert _correlation(np.array([1.0, 2.0]), np.array([5.0, 5.0])) == 0.0
    inside = look_inside(make([[0, 0, 0, 1, 1, 2]]), data_of([[0, 0, 0, 0, 1, 1, 1, 2, 2, 3]]), str)
    assert inside.kinds[0].rank_correlation == pytest.approx(1.0)
    inside = look_inside(make([[3, 3, 3, 2, 2, 1]]), data_of([[0, 0, 0, 0, 1, 1, 1, 2, 2, 3]]), str)
    assert inside.kinds[0].rank_correlation == pytest.approx(-1.0)
