"""A full disk and folders that cannot be written: one line, nothing left over, and run again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crash_campaign import Case, Commands, Ended, tree
from crash_cases import cases

pytestmark = pytest.mark.slow

COMMANDS = [
    "distill",
    "train",
    "prepare",
    "compare",
    "experiments",
    "export artifact",
    "export hf",
    "export topk",
]
NOBODY = 65534
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95)  # of what a run writes


def size_of(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def check_one_line(ended: Ended) -> None:
    assert ended.code in (1, 2), ended.err
    assert not ended.late
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("farzi: ")
    assert "Traceback" not in ended.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk in memory, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(
    name: str,
    shared: Path,
    commands: Commands,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = cases(shared)[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    case.makes(whole)
    before = size_of(whole)
    assert commands(whole, case.arguments).code == 0
    expected, written = tree(whole), size_of(whole) - before
    full = 0
    for share in SHARES:
        work = small_disk / "work"
        work.mkdir()
        case.makes(work)
        resize(small_disk, f"{max(4096, size_of(small_disk) + int(share * written))}")
        ended = commands(work, case.arguments)
        resize(small_disk, "64m")
        if ended.code != 0:
            full += 1
            check_one_line(ended)
            ended = commands(work, case.again(work))
        assert ended.code == 0, ended.err
        assert differences(expected, tree(work)) == []
        shutil.rmtree(work)
    with capsys.disabled():
        print(f"\nfull disk, {name}: {full}/{full} in one line, and finished with more room")
    assert full >= 3


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return sorted(
        name for name in {*expected, *found} if expected.get(name, 0) != found.get(name, 0)
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written(
    name: str,
    shared: Path,
    commands: Commands,
) -> None:
    """It is said before the work, and in one line."""
    if os.getuid() != 0:
        pytest.skip("needs root, who becomes another user")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        folder = Path(place)
        copied = folder / "shared"
        shutil.copytree(shared, copied)
        work = folder / "work"
        work.mkdir()
        case: Case = cases(copied)[name]
        case.makes(work)
        if name == "experiments":
            toml = copied / "toy.toml"
            toml.write_text(toml.read_text().replace(str(shared), str(copied)))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = tree(work)
        ended = commands(work, case.arguments, uid=NOBODY)
        check_one_line(ended)
        assert tree(work) == before
        if name != "compare":  # which reads its source first
            assert ended.seconds < 10
