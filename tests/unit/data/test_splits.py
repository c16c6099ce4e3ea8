from __future__ import annotations

import hashlib

import numpy as np
import pytest

from farzi.data import Sequences
from farzi.data.splits import hash_ids, leave_last_out, three_ways
from farzi.errors import DataError


@pytest.mark.parametrize(
    ("count", "sizes"), [(3, (1, 1, 1)), (10, (8, 1, 1)), (943, (755, 94, 94)), (19, (17, 1, 1))]
)
def test_splits_80_10_10_and_never_shares_a_member(count: int, sizes: tuple[int, ...]) -> None:
    parts = three_ways(count, seed=3, what="users")
    assert tuple(map(len, parts)) == sizes
    assert sorted(np.concatenate(parts)) == list(range(count))


def test_the_split_of_a_seed_never_changes() -> None:
    # Artifacts on disk refer to these: another order would make them unreadable.
    assert three_ways(20, seed=0, what="users").validation.tolist() == [1, 18]
    assert three_ways(20, seed=0, what="users").test.tolist() == [8, 19]
    assert three_ways(20, seed=1, what="users").validation.tolist() == [3, 16]


def test_refuses_too_few_members_and_wrong_seeds() -> None:
    with pytest.raises(DataError, match="at least 3 users, got 2"):
        three_ways(2, seed=0, what="users")
    assert three_ways(10, seed=4_294_967_295, what="users").test.size == 1
    for seed in (-1, 4_294_967_296, True, 0.5):
        with pytest.raises(ValueError, match=f"must be an int from 0 to 4294967295, got {seed}"):
            three_ways(10, seed=seed, what="users")  # type: ignore[arg-type]


def test_leave_last_out_needs_a_context_before_every_target() -> None:
    rows = Sequences.from_lists([[1, 2, 3, 4, 5], [1, 2, 3], [1, 2], [1]])
    train, validation, test = ([row.tolist() for row in part] for part in leave_last_out(rows))
    assert train == [[1, 2, 3]]
    assert validation == [[1, 2, 3, 4], [1, 2]]
    assert test == [[1, 2, 3, 4, 5], [1, 2, 3], [1, 2]]


def test_hashes_sorted_ids_and_tells_numbers_from_text() -> None:
    assert hash_ids([3, 20]) == "sha256:" + hashlib.sha256(b"3\n20\n").hexdigest()
    assert hash_ids(["b", "a"]) == "sha256:" + hashlib.sha256(b'"a"\n"b"\n').hexdigest()
    assert hash_ids(["a\nb"]) != hash_ids(["a", "b"])
