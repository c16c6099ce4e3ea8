"""Thousands of mutated artifacts: each is refused in one line, or read right; nothing escapes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from farzi.artifact import Artifact, read_artifact, write_artifact
from farzi.dataset import DistilledDataset
from farzi.errors import ArtifactError
from hostile_mutations import mutate, write_bases

MOST_S = 20  # a case that takes longer hangs
MOST_GROWTH_MB = 400  # of the process, over a whole campaign

_opened: list[str] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_record)


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect the paths that are opened inside, those that are merely asked for among them."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@dataclass
class Campaign:
    """What came of the mutated artifacts."""

    refused: int = 0
    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    growth_mb: float = 0.0

    def __str__(self) -> str:
        return (
            f"artifacts: {self.refused + self.read:,} mutated, {self.refused:,} refused in one "
            f"line ({len(self.reasons)} kinds), {self.read:,} read right, 0 tracebacks, "
            f"0 files opened outside, slowest {self.slowest_s:.2f} s, +{self.growth_mb:.0f} MB"
        )


def run_campaign(seeds: range, folder: Path) -> Campaign:
    """Mutate and read an artifact for each seed.

    Raises:
        AssertionError: one is neither refused in one line nor read right; it names the seed.
    """
    outside = folder / "outside" / "secret.json"
    outside.parent.mkdir()
    outside.write_text('{"format": "farzi", "secret": "from elsewhere"}')
    bases = write_bases(folder / "bases")
    found = Campaign()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        target = folder / "case"
        shutil.copytree(bases[seed % len(bases)], target)
        done = mutate(target, seed, outside)
        started = time.perf_counter()
        try:
            one_case(target, found)
        except BaseException as error:
            raise AssertionError(f"seed {seed} ({done}): {error!r}") from error
        found.slowest_s = max(found.slowest_s, time.perf_counter() - started)
        shutil.rmtree(target)
    found.growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found


def one_case(target: Path, found: Campaign) -> None:
    def give_up(*arguments: Any) -> None:
        raise TimeoutError(f"more than {MOST_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(MOST_S)
    try:
        with opened_files() as opened:
            artifact = read_artifact(target)
    except ArtifactError as error:
        line = str(error)
        assert line.startswith(str(target)), line
        assert line.isprintable(), line
        assert len(line) < 500, line
        assert "from elsewhere" not in line
        found.refused += 1
        found.reasons["".join(c for c in line[len(str(target)) :] if not c.isdigit())[:60]] += 1
    else:
        check_read_right(artifact, target)
        found.read += 1
    finally:
        signal.alarm(0)
    for path in opened:
        if any(Path(path).is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix)):
            continue  # a module that Python imports now
        assert Path(path).is_relative_to(target), path
        # What is opened is no way out: neither it nor a folder above it is a link.
        # (The last part may be one, which `O_NOFOLLOW` then refuses to open.)
        inside = Path(path).parent
        while inside != target:
            assert not inside.is_symlink(), path
            inside = inside.parent


def check_read_right(artifact: Artifact, target: Path) -> None:
    """Check that what was read is whole: finite, of one shape, usable, written again the same."""
    shape = (artifact.num_sequences, artifact.length)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in artifact.tensors.values())
    assert len(set(artifact.vocabulary)) == artifact.vocabulary_size
    data = DistilledDataset(artifact)
    batch = data.batch()
    assert bool(torch.isfinite(batch["labels"]).all())
    assert batch["labels"].shape[-1] == artifact.vocabulary_size
    assert data.hard().tokens.shape == shape
    again = target.with_name("again")
    write_artifact(artifact, again)
    found = read_artifact(again)
    torch.testing.assert_close(found.tensors, artifact.tensors, rtol=0, atol=0)
    assert list(found.vocabulary) == list(artifact.vocabulary)
    shutil.rmtree(again)


def test_a_few_hundred(tmp_path: Path) -> None:
    found = run_campaign(range(400), tmp_path)
    assert found.refused > 250
    assert found.read > 10
    assert len(found.reasons) > 40


@pytest.mark.slow
def test_ten_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_campaign(range(1000, 11_000), tmp_path)
    with capsys.disabled():
        print(f"\n{found}")
    assert found.refused + found.read == 10_000
    assert found.growth_mb < MOST_GROWTH_MB


def test_equal_seeds_give_equal_faults(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("{}")
    base = write_bases(tmp_path / "bases")[1]
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name / "case"
        shutil.copytree(base, folder)
        done = mutate(folder, 11, outside)
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        contents.append((done, files))
    assert contents[0] == contents[1]
