"""Writing files and folders so that a reader finds the old or the new, never half of either."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "check_regular",
    "read_json",
    "read_text",
    "replacing",
    "replacing_folder",
    "restore_folder",
    "sibling",
    "write_text",
]

MAX_TEXT_BYTES = 1 << 28


def check_regular(file: Path, *, links: bool = False) -> None:
    """Refuse what is no file of its own folder: a link leads out of it, a pipe never ends.

    Args:
        file: what is about to be read.
        links: whether it may be a link, as where a user named it.

    Raises:
        OSError: it is missing, or something else than a regular file, and which.
    """
    mode = (file.stat() if links else file.lstat()).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise OSError(f"{kind}, where a regular file is needed")


def read_text(file: Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text of a file that farzi wrote, which may since have been put there by others.

    Raises:
        OSError: it is missing, no regular file, or cannot be read.
        ValueError: it is not UTF-8, or larger than `most_bytes`.
    """
    check_regular(file)
    if (size := file.stat().st_size) > most_bytes:
        raise ValueError(f"{size:,} bytes are more than {most_bytes:,}")
    return file.read_text(encoding="utf-8")


def read_json(file: Path, most_bytes: int = MAX_TEXT_BYTES) -> Any:
    """The JSON value of a file that farzi wrote, as `read_text` reads it.

    Raises:
        OSError: it is missing, no regular file, or cannot be read.
        ValueError: it is no JSON, or too large or too deep.
    """
    text = read_text(file, most_bytes)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def sibling(path: Path) -> Path:
    """A hidden name beside `path` that nothing else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file takes the place of `path` when the block ends well.

    Drafts of writers that were killed are removed first; those of living ones are locked.
    """
    for left in _abandoned(path, Path.is_file):
        left.unlink(missing_ok=True)
    with _draft(path, Path.touch) as draft:
        try:
            yield draft
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(folder: Path, *, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a folder to write into; it takes the place of `folder` when the block ends well.

    Where the system can exchange two names in one step, as Linux can, `folder` is there at every
    moment. Drafts of writers that were killed are removed first; those of living ones are locked.

    Args:
        folder: what is to be written, and may be there already.
        ours: whether a file may stand in such a folder; a draft that holds another is left alone.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(folder)
    for left in _abandoned(folder, lambda path: path.is_dir() and all(map(ours, path.iterdir()))):
        shutil.rmtree(left, ignore_errors=True)
    with _draft(folder, Path.mkdir) as draft:
        try:
            yield draft
            if not folder.exists():
                draft.rename(folder)
                return
            old = draft if _exchange(draft, folder) else _move_away(draft, folder)
            shutil.rmtree(old)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def restore_folder(folder: Path) -> None:
    """Put back a folder whose writer was killed between the two steps of replacing it."""
    if not folder.exists() and _old(folder).is_dir():
        _old(folder).rename(folder)


def _abandoned(target: Path, ours: Callable[[Path], bool]) -> list[Path]:
    """Drafts of a file or a folder that nobody writes any longer."""
    name = re.compile(re.escape(f".{target.name}.") + "[0-9a-f]{8}")
    found = []
    with os.scandir(target.parent) as there:
        drafts = [Path(entry.path) for entry in there if name.fullmatch(entry.name)]
    for path in drafts:
        if not path.is_symlink():
            with suppress(OSError), _lock(path):
                if ours(path):
                    found.append(path)
    return found


@contextmanager
def _draft(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a draft of `target` and hold it, so that no other writer takes it for abandoned."""
    while True:
        draft = sibling(target)
        make(draft)
        with suppress(FileNotFoundError, BlockingIOError):  # another writer was in between
            descriptor = _hold(draft)
            if draft.exists():
                break
            os.close(descriptor)
    try:
        yield draft
    finally:
        os.close(descriptor)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a draft; OSError where another process does."""
    descriptor = _hold(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _hold(path: Path) -> int:
    """A descriptor that holds a draft until it is closed, or until the process ends.

    Raises:
        OSError: another process holds it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}:
            os.close(descriptor)
            raise
    return descriptor


_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _move_away(draft: Path, folder: Path) -> Path:
    """Put `draft` in the place of `folder`, in two steps; return where that is now."""
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    return old


def _old(folder: Path) -> Path:
    """Where a folder is for the moment between the two steps."""
    return folder.with_name(f".{folder.name}.old")
