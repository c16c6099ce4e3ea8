"""How a file lies: which format, which delimiter, whether it quotes; guessed, and said."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from farzi.data.columns import ROW_ORDER, Columns, shorten, usual_roles
from farzi.data.content import LINE_LIMIT, first_lines, open_binary, suffix_of
from farzi.errors import DataError, SettingsError

__all__ = [
    "MAX_COLUMNS",
    "Format",
    "Layout",
    "ReadAs",
    "Recognised",
    "guess_layout",
    "header_of",
    "parse_delimiter",
    "parse_quote",
    "recognise",
    "records",
]

Format = Literal["table", "jsonl", "parquet", "user-lines", "text"]

MAX_COLUMNS = 10_000

_BY_SUFFIX: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "table", ".tsv": "table", ".inter": "table", ".dat": "table", ".data": "table",
    ".md": "text", ".rst": "text",
}  # fmt: skip
_PERHAPS_TEXT = {".txt", ".text"}
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".dat": "::", ".data": "\t"}
_DELIMITER_NAMES = {"tab": "\t", "blank": " ", "space": " ", "comma": ",", "semicolon": ";"}
_QUOTE_NAMES = {"none": "", "double": '"', "single": "'"}
_SAMPLE_LINES = 200
_DELIMITER_LINES = 20
_QUOTED_LINES = 5_000  # lines with a quote that are looked at
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True)
class ReadAs:
    """What a caller says about how a source is to be read; None: as it looks.

    Args:
        format: `table`, `jsonl`, `parquet`, `user-lines` (one user a line) or `text`.
        columns: of user, item and time.
        delimiter: what stands between two fields of a table.
        quote: what fields of a table may be wrapped in; empty: nothing.
    """

    format: Format | None = None
    columns: Columns = field(default_factory=Columns)
    delimiter: str | None = None
    quote: str | None = None

    @property
    def flags(self) -> list[str]:
        """The flags that were given."""
        given = [f"--{role}-col" for role in self.columns.given]
        named = {"--format": self.format, "--delimiter": self.delimiter, "--quote": self.quote}
        return [*given, *(flag for flag, value in named.items() if value is not None)]


@dataclass(frozen=True)
class Layout:
    """How a table of delimited text lies in its file.

    Args:
        delimiter: what stands between two fields.
        quote: what fields may be wrapped in, or nothing.
        names: the columns where the file has no header line.
        blank_lines: how many stand before the header or the first row.
        quote_guessed: whether the file was looked at to tell.
    """

    delimiter: str = ","
    quote: str = '"'
    names: tuple[str, ...] = ()
    blank_lines: int = 0
    quote_guessed: bool = False


def parse_delimiter(text: str | None) -> str | None:
    r"""What stands between two fields, from a flag: `tab`, `;`, `::`, `\t`.

    Raises:
        SettingsError: it is empty, too long or a line end.
    """
    if text is None:
        return None
    delimiter = _DELIMITER_NAMES.get(text.lower(), text.replace("\\t", "\t"))
    if not 1 <= len(delimiter.encode()) <= 4 or set(delimiter) & set('\r\n\0"'):
        raise SettingsError(
            f"--delimiter must be one to four characters such as , or :: or tab, got {text!r}."
        )
    return delimiter


def parse_quote(text: str | None) -> str | None:
    """What fields may be wrapped in, from a flag: `none`, `double`, `single` or a character.

    Raises:
        SettingsError: it is neither.
    """
    if text is None:
        return None
    quote = _QUOTE_NAMES.get(text.lower(), text)
    if len(quote.encode()) > 1 or (quote in "\r\n\0" and quote):
        raise SettingsError(f"--quote must be none or one character, got {text!r}.")
    return quote


# ------------------------------------------------------------------------------ which format


@dataclass(frozen=True)
class Recognised:
    """What a file is taken for.

    Args:
        format: of the file.
        columns: which columns hold what, where the file itself tells.
        delimiter: likewise.
        note: what was recognised, and how to have it otherwise.
    """

    format: Format
    columns: Columns | None = None
    delimiter: str | None = None
    note: str | None = None


def recognise(path: Path, asked: ReadAs, *, task: str | None) -> Recognised:
    """Tell a file's format from what was asked for, its name, and what it holds.

    Raises:
        DataError: it could be read in two ways; the line says which flag decides.
    """
    suffix = suffix_of(path)
    if asked.format is not None:
        return Recognised(asked.format)
    by_suffix = _BY_SUFFIX.get(suffix)
    if task == "language":
        return Recognised("text")
    if by_suffix == "text" and task is None:
        return Recognised("text")
    if by_suffix is not None and by_suffix != "text":
        return Recognised(by_suffix)
    if _magic(path) == b"PAR1":
        return Recognised("parquet")
    if asked.flags:
        return Recognised("table")
    numbered = first_lines(path, _SAMPLE_LINES)
    lines = [stripped for _, line in numbered if (stripped := line.strip())]
    found = _look(path, lines) if lines else None
    if found is not None:
        return found
    if suffix in _PERHAPS_TEXT and task is None:
        return Recognised("text")
    return Recognised("table")


def _magic(path: Path) -> bytes:
    """The first four bytes of a file, unpacked."""
    with open_binary(path) as stream:
        return stream.read(4)


def _look(path: Path, lines: list[str]) -> Recognised | None:
    """What the first lines say: an event log, one user a line, or nothing for certain."""
    if all(line.startswith("{") and line.endswith("}") for line in lines):
        return Recognised("jsonl", note="read as JSON lines (--format text: as a text)")
    width, delimiter = _even_width(lines)
    if width >= 2:
        header = [name.strip() for name in lines[0].split(delimiter)]
        if {"user", "item"} <= usual_roles(header):
            return Recognised(
                "table", delimiter=delimiter, note="read as a table (--format text: as a text)"
            )
        rows = [line.split(delimiter) for line in lines]
        if all(_NUMBER.fullmatch(value.strip()) for row in rows for value in row):
            return _numbers(path, rows, delimiter)
        if delimiter == "\t" or (width >= 3 and delimiter != " "):
            raise DataError(
                f"{path}: a table of {width} columns, it seems, the first line being "
                f"{shorten(lines[0], 60)!r}; --format table reads it so (with --user-col, "
                "--item-col and --time-col), --format text as a text."
            )
    return _user_lines(path, [line.split() for line in lines])


def _even_width(lines: Sequence[str]) -> tuple[int, str]:
    """The delimiter that gives every line as many fields, and how many."""
    for delimiter in ("\t", "::", ";", "|", ",", " "):
        widths = {line.count(delimiter) + 1 for line in lines}
        if len(widths) == 1 and (width := widths.pop()) > 1:
            return width, delimiter
    return 1, ","


def _numbers(path: Path, rows: list[list[str]], delimiter: str) -> Recognised | None:
    """Lines of as many numbers each: events without a header line, or one user a line."""
    users = [row[0] for row in rows]
    width = len(rows[0])
    if len(set(users)) == len(users):
        return _user_lines(path, rows) if delimiter == " " and len(rows) > 1 else None
    if width == 2:
        return Recognised(
            "table",
            Columns("1", "2", ROW_ORDER),
            delimiter,
            note="read as lines of a user and an item, in time order (--format text: as a text)",
        )
    time_column = min(width, 4)  # user, item, rating, time; or without a rating
    raise DataError(
        f"{path}: an event log without a header line, it seems, the first line being "
        f"{shorten(delimiter.join(rows[0]), 60)!r}; name its columns, such as --user-col 1 "
        f"--item-col 2 --time-col {time_column}, or read it as a text with --format text."
    )


def _user_lines(path: Path, rows: list[list[str]]) -> Recognised | None:
    """One user a line, where every line begins with another id; numbers are certain."""
    users = [row[0] for row in rows]
    if len(rows) < 2 or len(set(users)) < len(users) or min(map(len, rows)) < 2:
        return None
    words = [word for row in rows for word in row]
    if all(map(_INTEGER.fullmatch, words)):
        return Recognised(
            "user-lines",
            note="read as one user a line: the user, then the items in time order "
            "(--format text: as a text)",
        )
    if sum(any(map(str.isdigit, word)) for word in words) > 0.9 * len(words):
        raise DataError(
            f"{path}: one user a line, it seems, the first line being "
            f"{shorten(' '.join(rows[0]), 60)!r}; --format user-lines reads it so, --format text "
            "as a text."
        )
    return None


# ------------------------------------------------------------------------- delimited text


def guess_layout(path: Path, asked: ReadAs, quoted: Sequence[bytes]) -> Layout:
    """How a table lies in its file.

    Columns that are numbers (`1` is the first) say that the file has no header line.

    Args:
        path: the file.
        asked: what the caller says; what it leaves open is guessed.
        quoted: lines of the file that hold a quote; they tell whether it quotes.
    """
    suffix = suffix_of(path)
    sample = first_lines(path, _DELIMITER_LINES)
    number, first = sample[0]
    delimiter = asked.delimiter
    if delimiter is None:
        usual = _DELIMITERS.get(suffix, ",")
        numbers = [int(name) for name in asked.columns.given.values() if name.isdecimal()]
        delimiter = _delimiter(usual, [line for _, line in sample], max([2, *numbers]))
    layout = Layout(delimiter, blank_lines=number - 1)
    if asked.quote is not None:
        layout = replace(layout, quote=asked.quote)
    else:
        quotes = suffix != ".inter" and len(delimiter) == 1
        lines = [line.decode("utf-8-sig", errors="replace") for line in quoted]
        quotes = quotes and _quotes(first, lines, delimiter)
        layout = replace(layout, quote='"' if quotes else "", quote_guessed=True)
    if asked.columns.by_number:
        width = len(header_of(path, layout))
        layout = replace(layout, names=tuple(str(i + 1) for i in range(width)))
    return layout


def header_of(path: Path, layout: Layout) -> list[str]:
    """The fields of the first record.

    Raises:
        DataError: there are too many, or they are none.
    """
    _, fields = next(records(path, layout), (0, []))
    if len(fields) > MAX_COLUMNS:
        raise DataError(f"{path}: {len(fields):,} columns; at most {MAX_COLUMNS:,} are read.")
    if not fields:
        raise DataError(f"{path}: the file is empty.")
    return [name.strip() for name in fields]


def records(path: Path, layout: Layout, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Every record of a table of text with the number of its first line; slow, for errors.

    Args:
        path: the file.
        layout: how the table lies in it.
        strict: refuse quotes that do not pair up.
    """
    with open_binary(path) as stream:
        lines = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        if len(layout.delimiter) > 1 or not layout.quote:
            for number, line in enumerate(lines, 1):
                if text := line.rstrip("\r\n"):
                    yield number, text.split(layout.delimiter)
            return
        before = 0
        limit = csv.field_size_limit(LINE_LIMIT)
        try:
            reader = csv.reader(
                lines, delimiter=layout.delimiter, quotechar=layout.quote, strict=strict
            )
            for fields in reader:
                if fields:
                    yield before + 1, fields
                before = reader.line_num
        except csv.Error as error:
            raise DataError(f"{path}, line {before + 1}: {error}.") from None
        finally:
            csv.field_size_limit(limit)


class QuotedLines:
    """Collects the lines of a file that hold a double quote, up to a few thousand."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def __call__(self, block: bytes) -> None:
        """Look at a block of whole lines."""
        if len(self.lines) < _QUOTED_LINES and b'"' in block:
            found = (line for line in block.split(b"\n") if b'"' in line)
            self.lines += [line for line, _ in zip(found, range(_QUOTED_LINES), strict=False)]


def _delimiter(usual: str, lines: Sequence[str], least: int) -> str:
    """What stands between two fields: the usual one, unless another cuts all lines more evenly."""
    for delimiter in dict.fromkeys([usual, "\t", ";", "|", ",", " "]):
        widths = {
            line.count(delimiter) + 1 if len(delimiter) > 1 else _width(line, delimiter)
            for line in lines
        }
        if len(widths) == 1 and (widths.pop() or 0) >= least:
            return delimiter
    first = lines[0]
    return usual if usual in first else max([usual, "\t", ",", ";", "|", " "], key=first.count)


def _quotes(first: str, quoted: Iterable[str], delimiter: str) -> bool:
    """Whether a file wraps fields in quotes.

    A tab-separated export does not quote, and its titles may begin with a quote. So: where the
    quotes of every line pair up and give as many fields as the first line has, they are quotes.
    Where they do not, but every line has as many fields without regard to them, they are text.
    """
    with_quotes = _width(first, delimiter)
    without = first.count(delimiter) + 1
    if first.startswith('"') and with_quotes is not None:
        return True
    lines = [line.rstrip("\r\n") for line in quoted]
    if all(_width(line, delimiter) == with_quotes for line in lines):
        return True
    return any(line.count(delimiter) + 1 != without for line in lines)


def _width(line: str, delimiter: str) -> int | None:
    """How many fields a line has if its quotes are quotes; None where they do not pair up."""
    try:
        rows = list(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return len(rows[0]) if len(rows) == 1 else None
