"""Thousands of mutated artifacts: each is refused in one line, or read right; nothing escapes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from farzi.artifact import Artifact, read_artifact, write_artifact
from farzi.dataset import DistilledDataset
from farzi.errors import ArtifactError
from hostile_campaign import MOST_GROWTH_MB, Campaign, run_campaign
from hostile_mutations import mutate, write_bases


def campaign(seeds: range, folder: Path) -> Campaign:
    return run_campaign(
        "artifacts",
        seeds,
        folder,
        write_bases(folder / "bases"),
        mutate,
        read_case,
        error=ArtifactError,
    )


def read_case(target: Path, seed: int) -> Callable[[], None]:
    artifact = read_artifact(target)
    return lambda: check_read_right(artifact, target)


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
    found = campaign(range(400), tmp_path)
    assert found.refused > 250
    assert found.read > 10
    assert len(found.reasons) > 40


@pytest.mark.slow
def test_ten_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = campaign(range(1000, 11_000), tmp_path)
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
