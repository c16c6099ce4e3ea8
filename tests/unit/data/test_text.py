from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from farzi.data.text import choose_words, encode_sentences, read_lines, tokenise
from farzi.data.vocabulary import EOS, UNKNOWN
from farzi.errors import DataError


def test_words_are_lower_case_and_punctuation_stands_alone() -> None:
    assert tokenise("The <unk>'s `len(x)`!", "words") == [
        "the", "<unk>", "'", "s", "`", "len", "(", "x", ")", "`", "!",
    ]  # fmt: skip


def test_the_most_frequent_words_are_kept_ties_in_alphabetical_order() -> None:
    sentences = [["b", "a", "c"], ["c", "b", UNKNOWN, EOS]]
    assert choose_words(sentences, 0).ids == (UNKNOWN, EOS, "b", "c", "a")
    assert choose_words(sentences, 4).ids == (UNKNOWN, EOS, "b", "c")


def test_sentences_end_with_eos_and_strange_words_are_unknown() -> None:
    vocabulary = choose_words([["a", "b", "a"]], 3)
    tokens = encode_sentences([["a", "b"], []], vocabulary)
    assert [vocabulary.decode(row) for row in tokens] == [["a", UNKNOWN, EOS], [EOS]]


def test_reads_lines_that_hold_anything(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone \r\n\n  \ntwö".encode())
    assert read_lines(file) == ["one", "twö"]
    file.write_bytes(gzip.compress(b"x\ny\n"))
    assert read_lines(file) == ["x", "y"]
    file.write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: not UTF-8 text\."):
        read_lines(file)
    file.write_bytes(b"\n \n")
    with pytest.raises(DataError, match="empty"):
        read_lines(file)
