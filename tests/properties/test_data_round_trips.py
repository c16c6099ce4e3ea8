"""What goes in comes out: sequences, vocabularies, prepared folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from farzi.data import Sequences, Vocabulary
from farzi.data.splits import leave_last_out, three_ways

rows = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=8), max_size=8)
ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True),
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20, unique=True
    ),
)


@given(rows)
def test_sequences_come_back_from_lists_and_from_disk(lists: list[list[int]]) -> None:
    sequences = Sequences.from_lists(lists)
    assert [row.tolist() for row in sequences] == lists
    with tempfile.TemporaryDirectory() as folder:
        sequences.save(Path(folder, "part"))
        loaded = Sequences.load(Path(folder, "part"))
        assert loaded == sequences
        del loaded  # lets go of the files before the folder goes


@given(rows, st.integers(1, 10), st.data())
def test_views_agree_with_plain_lists(
    lists: list[list[int]], length: int, data: st.DataObject
) -> None:
    sequences = Sequences.from_lists(lists)
    chosen = data.draw(st.lists(st.integers(0, max(0, len(lists) - 1)), max_size=6 * bool(lists)))
    picked = [lists[i] for i in chosen]
    assert [row.tolist() for row in sequences.take(chosen)] == picked
    assert [row.tolist() for row in sequences.last(length)] == [row[-length:] for row in lists]
    assert [row.tolist() for row in sequences.without_last(length)] == [
        row[:-length] for row in lists
    ]
    tokens, mask = sequences.padded(chosen, length)
    assert tokens.shape == mask.shape == (len(chosen), length)
    assert [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)] == [
        row[-length:] for row in picked
    ]
    assert not tokens[~mask].any()
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()


@given(ids)
def test_a_vocabulary_turns_every_token_back(originals: list[int] | list[str]) -> None:
    vocabulary = Vocabulary(tuple(originals))
    assert vocabulary.decode(vocabulary.encode(originals)) == originals
    assert vocabulary.encode(originals).tolist() == list(range(vocabulary.size))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ids.json", "ids.parquet"):
            vocabulary.save(Path(folder, name))
            assert Vocabulary.load(Path(folder, name)) == vocabulary


@given(st.integers(3, 500), st.integers(0, 2**32 - 1))
def test_every_member_is_in_one_part(count: int, seed: int) -> None:
    parts = three_ways(count, seed, what="users")
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert len(parts.validation) == len(parts.test) == max(1, count // 10)
    assert all((np.diff(part) > 0).all() for part in parts)


@given(rows)
def test_leave_last_out_holds_out_the_last_two(lists: list[list[int]]) -> None:
    parts = leave_last_out(Sequences.from_lists(lists))
    for part, held in zip(parts, (2, 1, 0), strict=True):
        expected = [row[: len(row) - held] for row in lists if len(row) - held >= 2]
        assert [row.tolist() for row in part] == expected
