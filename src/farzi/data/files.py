"""Writing files and folders so that a reader finds the old or the new, never half of either."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing", "replacing_folder", "restore_folder", "sibling"]


def sibling(path: Path) -> Path:
    """A hidden name beside `path` that nothing else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file takes the place of `path` when the block ends well."""
    draft = sibling(path)
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


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
    for left in _abandoned(folder, ours):
        shutil.rmtree(left, ignore_errors=True)
    draft = sibling(folder)
    draft.mkdir()
    try:
        with _lock(draft):
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


def _abandoned(folder: Path, ours: Callable[[Path], bool]) -> list[Path]:
    """Drafts of `folder` that nobody writes any longer."""
    name = re.compile(re.escape(f".{folder.name}.") + "[0-9a-f]{8}")
    found = []
    for path in folder.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError), _lock(path):
                if all(map(ours, path.iterdir())):
                    found.append(path)
    return found


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a folder; OSError where another process does. It is free when the holder ends."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}:
                raise
        yield
    finally:
        os.close(descriptor)


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
    draft.rename(folder)
    return old


def _old(folder: Path) -> Path:
    """Where a folder is for the moment between the two steps."""
    return folder.with_name(f".{folder.name}.old")
