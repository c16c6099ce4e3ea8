"""An artifact distilled again from its own record is the same bytes, or says what differs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import farzi
from farzi import cli
from farzi.artifact import read_artifact, write_artifact
from farzi.distill import distill
from farzi.errors import ArtifactError
from toy import SMALL, toy_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    distill(toy_data(folder), folder / "run", SMALL)
    return folder / "run"


def test_the_same_bytes(run: Path, tmp_path: Path) -> None:
    found = farzi.reproduce(run, tmp_path / "again")
    assert found is not None
    assert found.same_bytes
    assert found.line == f"reproduced: all {len(found.same_files)} files are the same bytes."
    assert len(found.same_files) == 6
    first = {p.name: p.read_bytes() for p in (run / "artifact").rglob("*") if p.is_file()}
    again = {
        p.name: p.read_bytes() for p in (tmp_path / "again/artifact").rglob("*") if p.is_file()
    }
    assert first == again


def changed(run: Path, to: Path, **changes: object) -> Path:
    """The artifact of a run with other contents, beside a record of its source."""
    artifact = read_artifact(run)
    write_artifact(dataclasses.replace(artifact, **changes), to / "artifact")
    (to / "settings.json").write_text((run / "settings.json").read_text())
    return to


def test_a_number_that_differs_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latent = read_artifact(run).latent.clone()
    latent[0, 0, 0] += 1
    folder = changed(run, tmp_path / "other", latent=latent)
    assert cli.main(["reproduce", str(folder), "-q"]) == 1
    line = capsys.readouterr().out
    assert line.startswith("not reproduced: latent by up to 1")
    assert line.count("\n") == 1


def test_versions_that_differ_are_named(run: Path, tmp_path: Path) -> None:
    recipe = {**read_artifact(run).recipe, "versions": {"farzi": "0.0.9", "torch": "2.11"}}
    found = farzi.reproduce(changed(run, tmp_path / "other", recipe=recipe))
    assert found is not None
    assert found.same_numbers
    assert not found.same_bytes
    assert found.fields == ("recipe.versions.farzi", "recipe.versions.torch")
    assert "'farzi': '0.0.9'" in found.line
    assert json.loads(json.dumps(found.to_json()))["same_numbers"] is True


def test_threads_are_those_of_the_record(run: Path, tmp_path: Path) -> None:
    recipe = {**read_artifact(run).recipe, "num_threads": 2}
    before = torch.get_num_threads()
    seen: list[int] = []
    folder = changed(run, tmp_path / "other", recipe=recipe)
    farzi.reproduce(folder, should_stop=lambda: bool(seen.append(torch.get_num_threads())) or True)
    assert seen[0] == 2
    assert torch.get_num_threads() == before


def test_a_stop_is_honoured(run: Path, tmp_path: Path) -> None:
    assert farzi.reproduce(run, tmp_path / "again", should_stop=lambda: True) is None


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "`recipe.settings` is missing"),
        ({"settings": {"student": None}}, "a model of one's own"),
        (
            {"settings": {"student": {"name": "sasrec"}, "start": {"name": "artifact"}}},
            "another artifact",
        ),
        (
            {"settings": {"student": {"name": "sasrec"}, "outer": {"stepz": 3}}},
            "cannot be followed",
        ),
    ],
)
def test_a_record_that_says_too_little_is_refused(
    recipe: dict[str, object], words: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=words):
        farzi.reproduce(changed(run, tmp_path / "other", recipe=recipe))


def test_an_artifact_names_no_place(run: Path) -> None:
    """Neither a path nor a host is in what is shared."""
    for file in (run / "artifact").rglob("*"):
        if file.is_file():
            assert str(run.parent).encode() not in file.read_bytes()
