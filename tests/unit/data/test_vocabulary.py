from __future__ import annotations

from pathlib import Path

import pytest

from farzi.data import Vocabulary
from farzi.data.vocabulary import EOS, UNKNOWN
from farzi.errors import DataError


@pytest.mark.parametrize("ids", [(), (1, 1), ("a", 1), (True, False), (1.0,), (None,)])
def test_refuses_ids_that_cannot_be_told_apart(ids: tuple) -> None:
    with pytest.raises(ValueError, match="`ids` must"):
        Vocabulary(ids)


def test_an_unknown_item_is_an_error_and_an_unknown_word_is_not() -> None:
    with pytest.raises(DataError, match="7 is not among the 2 known ids"):
        Vocabulary((5, 6)).encode([5, 7])
    words = Vocabulary((UNKNOWN, EOS, "the"))
    assert words.encode(["the", "cat", EOS]).tolist() == [2, 0, 1]
    assert "the" in words
    assert "cat" not in words


def test_refuses_tokens_outside() -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Vocabulary((5, 6)).decode([2])


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_comes_back_from_disk(suffix: str, tmp_path: Path) -> None:
    for ids in ((3, 1, -2), ("é", "a\nb", "", "7")):
        vocabulary = Vocabulary(ids)
        vocabulary.save(tmp_path / f"v{suffix}")
        assert Vocabulary.load(tmp_path / f"v{suffix}") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "[1, 1]", '[1, "a"]', "[[1]]", "[NaN]", "\xff"]
)
def test_refuses_a_broken_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"v\.json"):
        Vocabulary.load(file)
    with pytest.raises(DataError, match="parquet"):
        Vocabulary.load(tmp_path / "v.parquet")
