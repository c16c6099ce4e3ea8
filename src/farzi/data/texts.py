"""Where a text comes from: a file, a folder with its own split, documents, a table of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from farzi.data import splits, stdlib, text
from farzi.data.content import hash_content, hash_lines, join_digests, stem_of, suffix_of
from farzi.data.formats import ReadAs
from farzi.errors import DataError, SettingsError

__all__ = [
    "DocumentsReader",
    "LinesReader",
    "PartsReader",
    "RowsReader",
    "Text",
    "TextReader",
    "holds_text_only",
    "official_parts",
]

Sentences = list[list[str]]

_PARTS = {"train": {"train"}, "valid": {"valid", "validation", "val", "dev"}, "test": {"test"}}
_TEXT_COLUMNS = ("text", "sentence", "content")


@dataclass(frozen=True)
class Text:
    """A text as sentences of words, in three parts, with the ids of its training members.

    Args:
        fingerprint: `sha256:...` of the source's content.
        split_kind: `official`, `lines` or `documents`.
        tokens: how lines were cut into words.
        parts: the sentences for training, validation and test.
        train_ids: of the lines or documents for training.
        settings: what it was read with, by the names that `prepare` has for it.
        as_published: whether the content is the known one; None: not known.
    """

    fingerprint: str
    split_kind: splits.SplitKind
    tokens: text.Cut
    parts: tuple[Sentences, Sentences, Sentences]
    train_ids: list[int | str]
    settings: dict[str, str | None] = field(default_factory=dict)
    as_published: bool | None = None


class TextReader(Protocol):
    """A text, wherever it is."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def label(self) -> str:
        """What errors call it."""

    def read_text(self, split_seed: int, tokens: text.Cut | None) -> Text:
        """Read and split it.

        Args:
            split_seed: of an 80/10/10 split, where the source has none of its own.
            tokens: how to cut lines into words; None: as suits the source.

        Raises:
            DataError: one line that names the file and the line at fault.
        """


@dataclass(frozen=True)
class LinesReader:
    """A text file, one sentence a line, split by lines."""

    path: Path
    read_as: ReadAs = field(default_factory=ReadAs)

    @property
    def name(self) -> str:
        """What results call it."""
        return stem_of(self.path)

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.path)

    def read_text(self, split_seed: int, tokens: text.Cut | None) -> Text:
        """Read and split it by lines."""
        _refuse_table_settings(self.label, self.read_as)
        members = [(number, [line]) for number, line in enumerate(text.read_lines(self.path))]
        fingerprint = hash_lines(self.path)
        return _split(self.label, members, "lines", fingerprint, split_seed, tokens, "text")


@dataclass(frozen=True)
class PartsReader:
    """A text in three files, for training, validation and test."""

    name: str
    label: str
    paths: Sequence[Path]
    tokens: text.Tokens = "words"
    sha256: tuple[str, ...] = ()
    read_as: ReadAs = field(default_factory=ReadAs)

    def read_text(self, split_seed: int, tokens: text.Cut | None) -> Text:
        """Read the three files; nothing is drawn."""
        _refuse_table_settings(self.label, self.read_as)
        rule = tokens or self.tokens
        lines = [text.read_lines(path) for path in self.paths]
        train, validation, test = (
            [words for row in rows if (words := text.tokenise(row, rule))] for rows in lines
        )
        fingerprint = hash_content(self.paths)
        known = bool(self.sha256)
        return Text(
            fingerprint=fingerprint,
            split_kind="official",
            tokens=rule,
            parts=(train, validation, test),
            train_ids=list(range(len(train))),
            settings={} if known else {"format": "text"},
            as_published=fingerprint == join_digests(self.sha256) if known else None,
        )


@dataclass(frozen=True)
class DocumentsReader:
    """Documents that are embedded in Python, cut into sentences, split by documents."""

    name: str
    documents: Callable[[], Sequence[tuple[str, str]]]

    @property
    def label(self) -> str:
        """What errors call it."""
        return self.name

    def read_text(self, split_seed: int, tokens: text.Cut | None) -> Text:
        """Read and split them by documents."""
        documents = self.documents()
        members = [(name, text.split_sentences(body)) for name, body in sorted(documents)]
        fingerprint = stdlib.hash_records(documents)
        return _split(self.label, members, "documents", fingerprint, split_seed, tokens, None)


@dataclass(frozen=True)
class RowsReader:
    """A table in memory whose rows are lines of text, such as a `datasets.Dataset`."""

    source: Any

    @property
    def name(self) -> str:
        """What results call it."""
        return "table"

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"the {type(self.source).__name__}"

    def read_text(self, split_seed: int, tokens: text.Cut | None) -> Text:
        """Read the text column and split it by rows."""
        from farzi.data.readers.memory import column_names, to_arrow

        names = column_names(self.source)
        column = next((name for name in _TEXT_COLUMNS if name in names), None)
        if column is None:
            raise DataError(f"{self.label}: no column of text ({', '.join(_TEXT_COLUMNS)}).")
        rows = to_arrow(self.source, [column])[column].to_pylist()
        if wrong := [place for place, row in enumerate(rows) if not isinstance(row, str)]:
            raise DataError(f"{self.label}, row {wrong[0] + 1}, column {column!r}: it is no text.")
        lines = [line for row in rows for line in row.splitlines() if line.strip()]
        members = [(number, [line]) for number, line in enumerate(lines)]
        fingerprint = stdlib.hash_records((line, "") for line in lines)
        return _split(self.label, members, "lines", fingerprint, split_seed, tokens, None)


def holds_text_only(source: Any) -> bool:
    """Whether a table has a column of text and nothing that could be an item."""
    from farzi.data.columns import usual_roles
    from farzi.data.readers.memory import column_names

    names = column_names(source)
    return bool(set(_TEXT_COLUMNS).intersection(names)) and "item" not in usual_roles(names)


def official_parts(folder: Path) -> list[Path] | None:
    """The training, validation and test text of a folder; None: it has no such files.

    `train.txt`, `ptb.valid.txt` and `wiki.test.tokens.gz` are names of such.

    Raises:
        DataError: one is missing, or there are several.
    """
    texts = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and suffix_of(path) in {".txt", ".text", ".tokens", ".raw", ""}
    ]
    found = {
        part: [path for path in texts if names.intersection(re.split(r"\W|_", path.name.lower()))]
        for part, names in _PARTS.items()
    }
    if not any(found.values()):
        return None
    for part, paths in found.items():
        if len(paths) != 1:
            what = "no" if not paths else f"{len(paths)} files of a"
            raise DataError(
                f"{folder}: {what} {part} text, where train, valid and test are needed."
            )
    return [paths[0] for paths in found.values()]


def _refuse_table_settings(label: str, read_as: ReadAs) -> None:
    if given := [flag for flag in read_as.flags if flag != "--format"]:
        raise SettingsError(f"{given[0]} is for event logs, and {label} is a text.")


def _split(
    label: str,
    members: Sequence[tuple[int | str, list[str]]],
    kind: Literal["lines", "documents"],
    fingerprint: str,
    split_seed: int,
    tokens: text.Cut | None,
    format_: str | None,
) -> Text:
    """Split members, each an id and its sentences, 80/10/10."""
    rule = tokens or "words"
    try:
        places = splits.three_ways(len(members), split_seed, what=kind)
    except DataError as error:
        raise DataError(f"{label}: {error}") from None

    def sentences(part: Any) -> Sentences:
        rows = (text.tokenise(line, rule) for place in part for line in members[place][1])
        return [row for row in rows if row]

    return Text(
        fingerprint=fingerprint,
        split_kind=kind,
        tokens=rule,
        parts=(sentences(places.train), sentences(places.validation), sentences(places.test)),
        train_ids=[members[place][0] for place in places.train],
        settings={"format": format_} if format_ else {},
    )
