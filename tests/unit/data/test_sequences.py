from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from farzi.data import Sequences
from farzi.data import sequences as sequences_module
from farzi.errors import DataError


@pytest.fixture
def events() -> Sequences:
    return Sequences.from_lists([[3, 1, 2], [], [5], [4, 4, 4, 4]])


def test_holds_flat_int32_tokens_and_int64_offsets(events: Sequences) -> None:
    assert events.tokens.dtype == np.int32
    assert events.offsets.dtype == np.int64
    assert events.offsets.tolist() == [0, 3, 3, 4, 8]
    assert events.lengths.tolist() == [3, 0, 1, 4]
    assert [row.tolist() for row in events] == [[3, 1, 2], [], [5], [4, 4, 4, 4]]
    assert events[-1].tolist() == [4, 4, 4, 4]
    with pytest.raises(IndexError):
        events[4]


def test_is_read_only_and_leaves_the_callers_arrays_alone() -> None:
    tokens, offsets = np.array([1, 2], np.int32), np.array([0, 2])
    events = Sequences(tokens, offsets)
    with pytest.raises(ValueError, match="read-only"):
        events[0][0] = 7
    tokens[0] = 1


@pytest.mark.parametrize(
    ("tokens", "offsets"),
    [
        (np.zeros(2, np.int64), np.array([0, 2])),
        (np.zeros((2, 1), np.int32), np.array([0, 2])),
        (np.zeros(2, np.int32), np.array([0, 2], np.int32)),
        (np.zeros(2, np.int32), np.array([0, 1])),
        (np.zeros(2, np.int32), np.array([1, 2])),
        (np.zeros(2, np.int32), np.array([0, 2, 1, 2])),
        (np.zeros(0, np.int32), np.zeros(0, np.int64)),
    ],
)
def test_refuses_arrays_that_are_no_sequences(tokens: np.ndarray, offsets: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must"):
        Sequences(tokens, offsets)


def test_takes_and_cuts(events: Sequences) -> None:
    assert [row.tolist() for row in events.take([3, 0])] == [[4, 4, 4, 4], [3, 1, 2]]
    assert [row.tolist() for row in events.last(2)] == [[1, 2], [], [5], [4, 4]]
    assert [row.tolist() for row in events.without_last(2)] == [[3], [], [], [4, 4]]
    assert len(events.take([])) == 0
    with pytest.raises(IndexError):
        events.take([4])
    with pytest.raises(ValueError, match="`length` must be an int >= 1, got 0"):
        events.last(0)


def test_pads_on_the_right_with_the_last_tokens(events: Sequences) -> None:
    tokens, mask = events.padded(np.array([0, 2, 1]), length=2)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[1, 2], [5, 0], [0, 0]]
    assert mask.tolist() == [[True, True], [True, False], [False, False]]


def test_loads_as_a_memory_map(events: Sequences, tmp_path: Path) -> None:
    events.save(tmp_path / "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.offsets.npy",
        "train.tokens.npy",
    ]
    loaded = Sequences.load(tmp_path / "train")
    assert loaded == events
    assert isinstance(loaded.tokens, np.memmap)


def test_refuses_broken_files(events: Sequences, tmp_path: Path) -> None:
    events.save(tmp_path / "a")
    tokens = tmp_path / "a.tokens.npy"
    whole = tokens.read_bytes()
    for broken in (b"", b"not numpy", whole[:-3], whole[:40]):
        tokens.write_bytes(broken)
        with pytest.raises(DataError, match=r"a.*cannot be read"):
            Sequences.load(tmp_path / "a")
    with pytest.raises(DataError, match=r"nothing\.tokens\.npy"):
        Sequences.load(tmp_path / "nothing")
    np.save(tokens, np.zeros(3, np.int32))
    with pytest.raises(DataError, match="must rise"):
        Sequences.load(tmp_path / "a")
    np.save(tokens, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        Sequences.load(tmp_path / "a")


@pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
def test_what_is_done_in_chunks_does_not_depend_on_their_size(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences_module, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    rows = [rng.integers(9, size=int(n)).tolist() for n in rng.integers(0, 8, size=20)]
    events = Sequences.from_lists(rows)
    chosen = rng.permutation(20)[:11]
    assert [row.tolist() for row in events.take(chosen)] == [rows[i] for i in chosen]
    assert [row.tolist() for row in events.last(3)] == [row[-3:] for row in rows]
    flat = [token for row in rows for token in row]
    assert events.token_counts(9).tolist() == [flat.count(token) for token in range(9)]
