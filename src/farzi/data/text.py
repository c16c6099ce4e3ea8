"""From text to tokens: words, sentences, and a vocabulary of the most frequent ones."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from farzi.data.content import iterate_lines
from farzi.data.sequences import Sequences
from farzi.data.tokenizer import Tokenizer
from farzi.data.vocabulary import EOS, UNKNOWN, Vocabulary
from farzi.errors import DataError

__all__ = [
    "Cut",
    "Tokens",
    "choose_words",
    "encode_sentences",
    "read_lines",
    "split_sentences",
    "tokenise",
]

Tokens = Literal["words", "characters", "blanks"]
Cut = Tokens | Tokenizer  # how a line is cut: by a rule, or as a tokenizer cuts it

_UNKNOWN = re.compile(f"({UNKNOWN})")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+")


def tokenise(line: str, rule: Cut) -> list[str]:
    """Cut a line into tokens, in Unicode's composed form (NFC), so that a letter is one letter.

    A tokenizer gets the line as it stands, and cuts it as it does.

    Args:
        line: one sentence.
        rule: `words` lowers the case and cuts at the word boundaries of Unicode, in every script;
            what is written without blanks is cut into its characters, as Unicode has it.
            `characters` makes a token of everything that a reader takes for one letter, and of
            blanks. `blanks` cuts at blanks and nothing else, for text that is tokenised already.
            Or a tokenizer.

    Example:
        >>> from farzi.data.text import tokenise
        >>> tokenise("Don't panic: mr. N", "words"), tokenise("mr. N", "blanks")
        (["don't", 'panic', ':', 'mr', '.', 'n'], ['mr.', 'N'])
        >>> tokenise("cafe\u0301 \u4eca\u5929", "words"), tokenise("e\u0301 a", "characters")
        (['café', '今', '天'], ['é', ' ', 'a'])

    References:
        Unicode Standard Annex 29, Text Segmentation; Annex 15, Normalization Forms.
    """
    if isinstance(rule, Tokenizer):
        return rule.cut(line)
    line = unicodedata.normalize("NFC", line)
    if rule == "blanks":
        return line.split()
    if rule == "characters":
        return list(_characters().findall(" ".join(line.split())))
    line = line.lower()
    if UNKNOWN not in line:
        return _words(line)
    pieces = _UNKNOWN.split(line)
    return [word for piece in pieces for word in ([UNKNOWN] if piece == UNKNOWN else _words(piece))]


def _words(line: str) -> list[str]:
    pieces = (piece.strip() for piece in _word_boundary().split(line))
    return [word for word in pieces if word]


@cache
def _word_boundary() -> Any:
    import regex

    return regex.compile(r"\b", regex.WORD | regex.VERSION1)


@cache
def _characters() -> Any:
    import regex

    return regex.compile(r"\X", regex.VERSION1)


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


def encode_sentences(
    sentences: Iterable[Sequence[str]], vocabulary: Vocabulary, eos: str = EOS
) -> Sequences:
    """Tokens of each sentence, `eos` at its end, `<unk>` for a word that is not known."""
    return Sequences.from_lists(vocabulary.encode([*words, eos]) for words in sentences)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything, gzip or not.

    Raises:
        DataError: the file is empty, is not UTF-8, has a line that is too long, or cannot be read.
    """
    stripped = (line.strip() for _, line in iterate_lines(path))
    lines = [line for line in stripped if line]
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    return lines
