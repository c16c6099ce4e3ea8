"""Campaigns of mutated files: each case is refused in one line or read right, in bounded memory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.errors import ArtifactError, FarziError

MOST_S = 20  # a case that takes longer hangs
MOST_GROWTH_MB = 400  # of the process, over a whole campaign
MOST_ALLOCATED = 3 << 30  # bytes above what the process has: an absurd size fails at once


class Hanging(BaseException):
    """A case took too long; a `TimeoutError` is an `OSError`, which readers refuse a file by."""


_opened: list[tuple[str, bool]] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        follows = not int(arguments[2] or 0) & os.O_NOFOLLOW
        _opened.append((os.fsdecode(arguments[0]), follows))


sys.addaudithook(_record)


@contextlib.contextmanager
def opened_files() -> Iterator[list[tuple[str, bool]]]:
    """Collect the paths that are opened inside, and whether a link there would be followed.

    Those that are merely asked for are among them.
    """
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@contextlib.contextmanager
def bounded(seconds: int = MOST_S, most_allocated: int = MOST_ALLOCATED) -> Iterator[None]:
    """End what hangs, and refuse memory far above what the process has."""

    def give_up(*arguments: Any) -> None:
        raise Hanging(f"more than {seconds} s")

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    text = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmData"))
    before = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + most_allocated, limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, limits)


@dataclass
class Campaign:
    """What came of the mutated cases."""

    what: str
    refused: int = 0
    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    growth_mb: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.refused + self.read:,} mutated, {self.refused:,} refused in one "
            f"line ({len(self.reasons)} kinds), {self.read:,} read right, 0 tracebacks, "
            f"0 files opened outside, slowest {self.slowest_s:.2f} s, +{self.growth_mb:.0f} MB"
        )


def run_campaign(
    what: str,
    seeds: range,
    folder: Path,
    bases: Sequence[Path],
    mutate: Callable[[Path, int, Path], str],
    read: Callable[[Path, int], Callable[[], None]],
    *,
    error: type[FarziError] = FarziError,
    also: Sequence[Path] = (),
) -> Campaign:
    """Mutate and read a folder for each seed.

    Args:
        what: what is mutated, in the summary.
        seeds: of the cases; the base is chosen by the seed too.
        folder: an empty folder to work in.
        bases: folders that mutations start from.
        mutate: changes a folder in place: (folder, seed, a file outside that links lead to).
        read: reads a case, and returns what checks that it was read right.
        error: what refusals are.
        also: folders outside the case in which files may be opened.

    Raises:
        AssertionError: a case is neither refused in one line nor read right; it names the seed.
    """
    outside = folder / "outside" / "secret.json"
    outside.parent.mkdir()
    outside.write_text('{"format": "farzi", "secret": "from elsewhere"}')
    found = Campaign(what)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        target = folder / "case"
        shutil.copytree(bases[seed % len(bases)], target, symlinks=True)
        done = mutate(target, seed, outside)
        started = time.perf_counter()
        try:
            with bounded():
                _one_case(target, seed, read, error, found, also)
        except BaseException as problem:
            raise AssertionError(f"{what}, seed {seed} ({done}): {problem!r}") from problem
        found.slowest_s = max(found.slowest_s, time.perf_counter() - started)
        shutil.rmtree(target)
    found.growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found


def _one_case(
    target: Path,
    seed: int,
    read: Callable[[Path, int], Callable[[], None]],
    error: type[FarziError],
    found: Campaign,
    also: Sequence[Path],
) -> None:
    try:
        with opened_files() as opened:
            check = read(target, seed)
    except error as problem:
        line = str(problem)
        bare = line.replace(str(target), "")
        assert str(target) in line or error is not ArtifactError, line
        assert line.isprintable(), line
        assert len(bare) < 500, line
        assert "from elsewhere" not in line
        found.refused += 1
        found.reasons["".join(c for c in bare if not c.isdigit())[:60]] += 1
    else:
        check()
        found.read += 1
    for path, follows in opened:
        _check_inside(Path(path), target, follows, also)


def _check_inside(path: Path, target: Path, follows: bool, also: Sequence[Path]) -> None:
    """Check that what was opened lies inside, and is no way out: neither it nor a folder above."""
    ours = Path(__file__).parent.parent / "src"
    known = [sys.prefix, sys.base_prefix, "/proc", "/sys", ours, *also]
    if any(path.is_relative_to(prefix) for prefix in known):
        return  # a module that Python imports now, or facts of the machine
    if not path.is_absolute() and not path.exists():
        return  # below a folder that is open, as when an old one is removed
    assert path.is_relative_to(target), path
    assert not (follows and path.is_symlink()), path
    inside = path.parent
    while inside != target and inside.is_relative_to(target):
        assert not inside.is_symlink(), path
        inside = inside.parent
