"""What a file holds: opened safely, unpacked, hashed, as lines or JSON, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from farzi.errors import DataError

__all__ = [
    "LINE_LIMIT",
    "RecordCount",
    "first_lines",
    "hash_content",
    "hash_lines",
    "is_gzip",
    "iterate_lines",
    "join_digests",
    "open_binary",
    "parse_json",
    "stem_of",
    "suffix_of",
]

LINE_LIMIT = 2_000_000  # bytes; a longer line is refused by number, whatever reads the file

_BLOCK = 1 << 20


def suffix_of(path: Path) -> str:
    """The file's suffix in lower case, without `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def stem_of(path: Path) -> str:
    """What results call a file or a folder: its name, a file's without `.gz` and suffix."""
    name = path.resolve().name
    return name if path.is_dir() else name.removesuffix(".gz").removesuffix(suffix_of(path))


def is_gzip(path: Path) -> bool:
    """Whether a file starts as gzip does, whatever its name."""
    with _open_regular(path) as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextlib.contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file, unpacked where it is gzip.

    Raises:
        DataError: the file is no regular one (a pipe and a device never end), cannot be opened,
            or its gzip stream is broken.
    """
    packed = is_gzip(path)
    try:
        with _open_regular(path) as raw:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from None


def hash_content(paths: Sequence[Path]) -> str:
    """`sha256:...` of what the files hold once unpacked; of their digests where there are many."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        with open_binary(path) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        digests.append(digest.hexdigest())
    return join_digests(digests)


def hash_lines(path: Path, *looks: Callable[[bytes], None]) -> str:
    """`sha256:...` of a text file, every line of which is checked to be of bearable length.

    Args:
        path: the file.
        looks: each is called with block after block of whole lines.

    Raises:
        DataError: a line is longer than `LINE_LIMIT`; the line says which.
    """
    digest = hashlib.sha256()
    with open_binary(path) as stream:
        for block in _blocks(path, stream):
            digest.update(block)
            for look in looks:
                look(block)
    return join_digests([digest.hexdigest()])


class RecordCount:
    """Counts the records of a text, so that what a reader drops in silence is noticed.

    Args:
        quote: line ends between two of these end no record; empty: every line end does.
    """

    def __init__(self, quote: str = "") -> None:
        self._quote = quote.encode()
        self._inside = False
        self._open = False
        self.records = 0
        self.line_end: str | None = None  # of the last line that has one

    def __call__(self, block: bytes) -> None:
        """Count those that end in a block; `total` adds one that has no line end."""
        values = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(values == 10)
        before = values[np.maximum(ends - 1, 0)]
        two_before = values[np.maximum(ends - 2, 0)]
        blank = (ends == 0) | (before == 10) | ((before == 13) & ((ends == 1) | (two_before == 10)))
        counts = ~blank
        if self._quote and self._quote in block:
            quotes = np.flatnonzero(values == self._quote[0])
            counts &= (np.searchsorted(quotes, ends) + self._inside) % 2 == 0
            self._inside = bool((self._inside + len(quotes)) % 2)
        elif self._inside:
            counts[:] = False
        self.records += int(counts.sum())
        self._open = not block.endswith(b"\n")
        if not self._open:
            self.line_end = "\r\n" if block.endswith(b"\r\n") else "\n"

    @property
    def total(self) -> int:
        """Records so far, with the last one where it has no line end."""
        return self.records + self._open


def join_digests(digests: Sequence[str]) -> str:
    """`sha256:...` of several digests, or the only one there is."""
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    return f"sha256:{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that hold anything, each with its number, from 1, without its end.

    Raises:
        DataError: a line is too long or not UTF-8; it is named.
    """
    number = 0
    with open_binary(path) as stream:
        for block in _blocks(path, stream):
            if block.isspace():
                number += block.count(b"\n")
                continue
            for line in block.splitlines() if b"\n" not in block else block.split(b"\n"):
                number += 1
                if not line.strip():
                    continue
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
                except UnicodeDecodeError:
                    raise DataError(
                        f"{path}, line {number}: not UTF-8 text{_guess(line)}."
                    ) from None
            number -= block.endswith(b"\n")  # what follows the last line end is no line


def first_lines(path: Path, count: int) -> list[tuple[int, str]]:
    """The first lines that hold anything, with their numbers.

    Raises:
        DataError: there is none, or one is too long or not UTF-8.
    """
    lines = []
    for numbered in iterate_lines(path):
        lines.append(numbered)
        if len(lines) == count:
            break
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    return lines


def parse_json(content: bytes) -> Any:
    """Parse JSON as the standard has it: UTF-8, no NaN, no key twice, no half character.

    Raises:
        ValueError: it is not that.
    """

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON value")

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("a key is given twice")
        return found

    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _blocks(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines, none longer than the limit, so that memory is bounded."""
    rest, lines, end = b"", 0, b"\n"
    while chunk := stream.read(_BLOCK):
        if not lines and not rest and b"\n" not in chunk and b"\r" in chunk:
            end = b"\r"  # as on a Mac of old
        cut = chunk.rfind(end) + 1
        block, rest = (rest + chunk[:cut], chunk[cut:]) if cut else (b"", rest + chunk)
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == end[0])
        lengths = np.diff(ends, prepend=-1) - 1
        if len(lengths) and lengths.max() > LINE_LIMIT:
            _refuse_line(path, lines + 1 + int(np.argmax(lengths > LINE_LIMIT)))
        lines += len(ends)
        if len(rest) > LINE_LIMIT:
            _refuse_line(path, lines + 1)
        if block:
            yield block
    if rest:
        yield rest


def _refuse_line(path: Path, number: int) -> None:
    raise DataError(f"{path}: line {number} is too long, more than {LINE_LIMIT:,} bytes.")


def _guess(line: bytes) -> str:
    return " (it looks like UTF-16)" if line[:2] in {b"\xff\xfe", b"\xfe\xff"} else ""


def _open_regular(path: Path) -> IO[bytes]:
    """Open without waiting for a writer: a pipe would make `open` hang."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise DataError(f"{path}: {what}, where a regular file is needed.")
    return os.fdopen(descriptor, "rb")
