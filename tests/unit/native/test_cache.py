"""A kernel library is loaded only where no one else can have put or changed it."""

from __future__ import annotations

import logging
import os
import pathlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farzi import native

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

SMALL = "long answer(void) { return 42; }\n"
PLANTED = """
#include <stdlib.h>
#include <stdio.h>
__attribute__((constructor)) static void run(void)
{
    FILE *file = fopen(getenv("FARZI_PLANTED"), "w");
    if (file) fclose(file);
}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and kernels that compile at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FARZI_NATIVE", raising=False)
    monkeypatch.setattr(native, "source", lambda: SMALL)
    native._load.cache_clear()
    yield tmp_path / "cache" / "farzi" / "kernels"
    native._load.cache_clear()


def load() -> str:
    """What `status` says when the kernels are loaded anew; they must answer where there are any."""
    native._load.cache_clear()
    if native.in_use():
        kernels = native.kernels_for()
        assert kernels is not None
        assert kernels.count("answer") == 42
    return native.status()


def build(cache: Path) -> Path:
    """The library, compiled where there is none that can be trusted; not loaded."""
    assert COMPILER is not None
    return native._compiled(COMPILER, native.own_folder(cache))


def library(cache: Path) -> Path:
    (path,) = cache.glob("kernels-*.so")
    return path


def test_folder_and_library_are_closed_to_others(cache: Path) -> None:
    old = os.umask(0)
    try:
        assert load().startswith("compiled")
    finally:
        os.umask(old)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(library(cache).stat().st_mode) == 0o700
    written = library(cache).stat().st_mtime_ns
    assert load().startswith("compiled")
    assert library(cache).stat().st_mtime_ns == written
    assert [path.name for path in cache.iterdir()] == [library(cache).name]


def planted(tmp_path: Path) -> bytes:
    """A library that leaves a trace when it is loaded."""
    assert COMPILER is not None
    out = tmp_path / "planted.so"
    command = [COMPILER, "-shared", "-fPIC", "-x", "c", "-", "-o", str(out)]
    subprocess.run(command, input=PLANTED, text=True, check=True)
    return out.read_bytes()


def truncate(path: Path, tmp_path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def replace(path: Path, tmp_path: Path) -> None:
    path.write_bytes(planted(tmp_path))


def link(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    path.replace(other)
    path.symlink_to(other)


def open_to_others(path: Path, tmp_path: Path) -> None:
    path.chmod(0o777)


def pipe(path: Path, tmp_path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", [truncate, empty, flip, replace, link, open_to_others, pipe])
def test_a_library_that_is_not_to_be_trusted_is_compiled_anew(
    harm: Callable[[Path, Path], None], cache: Path, tmp_path: Path
) -> None:
    path = build(cache)
    whole = path.read_bytes()
    harm(path, tmp_path)
    assert not native.trusted(path)
    assert build(cache) == path
    assert native.trusted(path)
    assert not path.is_symlink()
    assert path.read_bytes() == whole


def test_a_folder_that_others_could_write_to_is_closed_and_emptied(
    cache: Path, tmp_path: Path
) -> None:
    path = build(cache)
    whole = path.read_bytes()
    path.write_bytes(planted(tmp_path))
    native._sign(path)  # whoever could write here could sign as well
    assert native.trusted(path)
    cache.chmod(0o777)
    assert build(cache).read_bytes() == whole
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_linked_folder_is_not_used(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    cache.parent.mkdir(parents=True)
    cache.symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.INFO, logger="farzi.native"):
        status = load()
        assert native.kernels_for() is None
    assert "no folder but a link" in status
    assert "XDG_CACHE_HOME" in status
    assert len(caplog.records) == 1


def test_a_folder_of_someone_else_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(cache)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to someone else" in load()


def test_without_a_home_folder_plain_torch_runs_and_says_so_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", none)
    with caplog.at_level(logging.INFO, logger="farzi.native"):
        assert "home directory" in load()
        for _ in range(3):
            assert native.kernels_for() is None
            assert not native.in_use()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plain torch" in caplog.text


def test_a_home_that_cannot_be_written_to(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "no folder to keep them in" in load()


def test_a_relative_cache_folder_is_not_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    assert native._cache_folder() == tmp_path / ".cache" / "farzi" / "kernels"


def test_the_switch_is_said_quietly(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FARZI_NATIVE", "0")
    with caplog.at_level(logging.INFO, logger="farzi.native"):
        assert load() == "turned off by FARZI_NATIVE=0"
    assert [record.levelname for record in caplog.records] == ["INFO"]


CHILD = """
import farzi.native as native
native.source = lambda: {source!r}
assert native.in_use(), native.status()
assert native.kernels_for().count("answer") == 42
"""


@pytest.mark.parametrize("harm", [truncate, replace])
def test_what_was_put_there_neither_runs_nor_ends_the_process(
    harm: Callable[[Path, Path], None],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FARZI_PLANTED", str(tmp_path / "trace"))
    harm(build(cache), tmp_path)
    command = [sys.executable, "-c", CHILD.format(source=SMALL)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "trace").exists()
