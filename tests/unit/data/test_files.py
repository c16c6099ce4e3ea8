"""A folder is replaced whole: whenever the writer is killed, one of the two can be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from farzi.data import PreparedData, files, prepare
from farzi.errors import DataError


@pytest.fixture
def old(tmp_path: Path) -> PreparedData:
    return prepared(tmp_path / "old.csv", 6)


@pytest.fixture
def new(tmp_path: Path) -> PreparedData:
    return prepared(tmp_path / "new.csv", 5)


def prepared(file: Path, length: int) -> PreparedData:
    rows = [f"{u},{(u + k) % 9},{k}\n" for u in range(10) for k in range(length)]
    file.write_text("user,item,time\n" + "".join(rows))
    return prepare(file)


# Each line is run in place of a call, in the writer; `call` is what it would have been.
KILLS = {
    "at the first file": ("farzi.data.sequences.replacing", "os._exit(9)"),
    "before the exchange": ("farzi.data.files._exchange", "os._exit(9)"),
    "after the exchange": ("farzi.data.files._exchange", "call(*a); os._exit(9)"),
    "before the old one is removed": ("shutil.rmtree", "os._exit(9)"),
}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("when", KILLS)
def test_a_writer_that_is_killed_leaves_the_old_or_the_new(
    when: str, exchanges: bool, old: PreparedData, new: PreparedData, tmp_path: Path
) -> None:
    place = tmp_path / "data"
    old.save(place)
    new.save(tmp_path / "kept")
    target, line = KILLS[when]
    module, name = target.rsplit(".", 1)
    code = (
        f"import os, sys, {module} as module\n"
        "from farzi.data import PreparedData, files\n"
        f"data = PreparedData.load({str(tmp_path / 'kept')!r})\n"
        f"{'' if exchanges else 'files._exchange = lambda *a: False'}\n"
        f"call = module.{name}\n"
        f"def killed(*a, **k): {line}\n"
        f"module.{name} = killed\n"
        f"data.save({str(place)!r}, overwrite=True)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert child.returncode == 9
    assert PreparedData.load(place) in (old, new)
    new.save(place, overwrite=True)
    assert PreparedData.load(place) == new
    assert hidden(tmp_path) == []


def test_a_folder_between_the_two_steps_is_put_back(
    old: PreparedData, new: PreparedData, tmp_path: Path
) -> None:
    old.save(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / ".data.old")
    assert PreparedData.load(tmp_path / "data") == old
    (tmp_path / "data").rename(tmp_path / ".data.old")
    with pytest.raises(DataError, match="exists already"):
        new.save(tmp_path / "data")
    assert PreparedData.load(tmp_path / "data") == old


def test_drafts_of_the_living_and_folders_of_others_are_left_alone(
    old: PreparedData, tmp_path: Path
) -> None:
    theirs = tmp_path / ".data.0123abcd"
    theirs.mkdir()
    (theirs / "thesis.tex").touch()
    dead = tmp_path / ".data.4567abcd"
    dead.mkdir()
    (dead / ".train.tokens.npy.0123abcd").touch()
    living = tmp_path / ".data.89abcdef"
    living.mkdir()
    with files._lock(living):
        old.save(tmp_path / "data")
    assert hidden(tmp_path) == [theirs.name, living.name]


def test_a_draft_is_removed_when_writing_fails(
    old: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farzi.data.sequences.np.save", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        old.save(tmp_path / "data")
    assert hidden(tmp_path) == []
    assert not (tmp_path / "data").exists()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
