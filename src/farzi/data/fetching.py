"""Downloading a known dataset from its publisher, every byte checked before it is used."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from farzi.data.files import replacing
from farzi.data.sources import (
    SOURCES,
    Download,
    Source,
    close_names,
    data_cache,
    find,
)
from farzi.errors import DataError, SettingsError

__all__ = ["fetch"]

_log = logging.getLogger("farzi")

Progress: TypeAlias = Callable[[int, int, str], None]


def fetch(
    name: str,
    data_root: str | os.PathLike[str] | None = None,
    *,
    mirror: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Download a known dataset to where every command finds it.

    What is there already stays as it is. Its terms are its publisher's, and are told to the log.

    Args:
        name: in `farzi.data.SOURCES`.
        data_root: folder to put it in; None: the one that `FARZI_DATA_ROOT` names, else the
            user's cache, where every command looks last.
        mirror: address of a folder with the same files, in place of the publisher's.
        overwrite: download it again where it is there.
        progress: called with (bytes done, bytes in all, the file).

    Returns:
        its files.

    Raises:
        DataError: there is no such dataset, it cannot be had, or its bytes are not those published.
        SettingsError: pooch is not installed.

    Example:
        >>> from farzi.data.fetching import fetch
        >>> fetch("netflix")
        Traceback (most recent call last):
        ...
        farzi.errors.DataError: netflix: its publisher has withdrawn it; bring your own copy.
    """
    if name not in SOURCES:
        raise DataError(f"{name}: is no known source{close_names(name)}.")
    source = SOURCES[name]
    if source.embedded:
        raise DataError(f"{name}: every Python has it; there is nothing to download.")
    if not source.downloads:
        raise DataError(f"{name}: its publisher has withdrawn it; bring your own copy.")
    root = data_root if data_root is not None else os.environ.get("FARZI_DATA_ROOT")
    folder = data_cache() if not root else Path(root).expanduser()
    if not overwrite:
        with suppress(DataError):
            return find(source, folder)[1]
    _log.info("%s: %s", name, source.title)
    _log.info("terms: %s", source.licence)
    _log.info("to cite: %s", source.citation)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as place:
            for download in source.downloads:
                _one(source, download, Path(place), folder, mirror, progress)
    except OSError as error:
        raise DataError(f"{name}: {error.filename or folder}: {error.strerror}.") from None
    return find(source, folder)[1]


def _one(
    source: Source,
    download: Download,
    place: Path,
    folder: Path,
    mirror: str | None,
    progress: Progress | None,
) -> None:
    """Download one file, check it, and put what is wanted of it in its place."""
    file = download.url.rpartition("/")[2]
    url = download.url if mirror is None else f"{mirror.rstrip('/')}/{file}"
    with _pooch(source.name, url) as pooch:
        pooch.retrieve(
            url,
            known_hash=download.checksum,
            fname=file,
            path=place,
            downloader=pooch.HTTPDownloader(progressbar=_Bar(file, progress), timeout=60),
        )
    for member, target in _wanted(source.name, place / file, download.members):
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            if download.carriage_returns:  # as the known content has it: lines end in \n
                draft.write_bytes(member.read_bytes().replace(b"\r\n", b"\n"))
            else:
                shutil.move(member, draft)


def _wanted(name: str, file: Path, members: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """What is wanted of a downloaded file, and under which name: itself, or parts of an archive."""
    if file.suffix != ".zip":
        yield file, file.name
        return
    with zipfile.ZipFile(file) as archive:
        for member, target in members.items():
            part = file.with_name(f"part-{target.replace('/', '-')}")
            try:
                with archive.open(member) as packed, part.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            except KeyError:
                raise DataError(f"{name}: {file.name} holds no {member}.") from None
            yield part, target


@contextmanager
def _pooch(name: str, url: str) -> Iterator[Any]:
    """Pooch, silent, its failures in one line.

    Raises:
        SettingsError: it is not installed.
        DataError: the address does not answer, or other bytes came.
    """
    try:
        import pooch
        import requests
    except ImportError:
        raise SettingsError("`farzi fetch` needs pooch: pip install 'farzi[fetch]'.") from None
    pooch.get_logger().setLevel("ERROR")
    try:
        yield pooch
    except requests.RequestException as error:
        answer = getattr(error, "response", None)
        said = f"answered {answer.status_code}" if answer is not None else "cannot be reached"
        raise DataError(f"{name}: {url} {said}.") from None
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise DataError(
            f"{name}: {url} gave other bytes than were published; nothing was kept."
        ) from None


class _Bar:
    """What pooch tells of a download, passed on."""

    def __init__(self, file: str, progress: Progress | None) -> None:
        self.file = file
        self.progress = progress
        self.total = 0
        self.done = 0

    def update(self, count: int) -> None:
        """`count` more bytes are there."""
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total, self.file)

    def reset(self) -> None:
        """Pooch counts anew at the end, to show the bar full."""
        self.done = 0

    def close(self) -> None:
        """The download has ended."""
