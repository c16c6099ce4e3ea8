"""From text to tokens: words, sentences, and a vocabulary of the most frequent ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from farzi.data.sequences import Sequences
from farzi.data.tables import open_binary
from farzi.data.vocabulary import EOS, UNKNOWN, Vocabulary
from farzi.errors import DataError

__all__ = [
    "Tokens",
    "choose_words",
    "encode_sentences",
    "read_lines",
    "split_sentences",
    "tokenise",
]

Tokens = Literal["blanks", "words"]

_WORD = re.compile(r"<unk>|\w+(?:['’]\w+)*|[^\w\s]")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+")


def tokenise(line: str, rule: Tokens) -> list[str]:
    """Cut a line into words.

    Args:
        line: one sentence.
        rule: `blanks` cuts at blanks and nothing else, for text that is tokenised already;
            `words` lowers the case and makes every punctuation mark a word.

    Example:
        >>> from farzi.data.text import tokenise
        >>> tokenise("Don't panic: mr. N", "words"), tokenise("mr. N", "blanks")
        (["don't", 'panic', ':', 'mr', '.', 'n'], ['mr.', 'N'])
    """
    return line.split() if rule == "blanks" else _WORD.findall(line.lower())


def split_sentences(text: str) -> list[str]:
    r"""Cut a document at blank lines and after `.:;!?`; the line breaks inside become blanks.

    Example:
        >>> from farzi.data.text import split_sentences
        >>> split_sentences("Stop\nhere. Go on.\n\nThe end")
        ['Stop here.', 'Go on.', 'The end']
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text))
    return [line for paragraph in paragraphs for line in _SENTENCE_END.split(paragraph) if line]


def choose_words(sentences: Iterable[Sequence[str]], size: int) -> Vocabulary:
    """The vocabulary of a training text: `<unk>`, `<eos>`, then words, most frequent first.

    Words of equal count stand in alphabetical order.

    Args:
        sentences: the training text only, as words.
        size: tokens in all, `<unk>` and `<eos>` included; 0 keeps every word.
    """
    counts = Counter(word for sentence in sentences for word in sentence)
    for special in (UNKNOWN, EOS):
        counts.pop(special, None)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary((UNKNOWN, EOS, *(words[: size - 2] if size else words)))


def encode_sentences(sentences: Iterable[Sequence[str]], vocabulary: Vocabulary) -> Sequences:
    """Tokens of each sentence, `<eos>` at its end, `<unk>` for a word that is not known."""
    return Sequences.from_lists(vocabulary.encode([*words, EOS]) for words in sentences)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything, gzip or not.

    Raises:
        DataError: the file is empty, is not UTF-8, or cannot be read.
    """
    with open_binary(path) as stream:
        lines = []
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {number}: not UTF-8 text.") from None
            if text:
                lines.append(text)
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    return lines
