"""What an artifact says of its student and its source, where a command acts on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import farzi
from artifact_examples import SOURCE, toy_artifact
from farzi import cli
from farzi.artifact import recipe_number, recipe_student, write_artifact
from farzi.errors import ArtifactError
from toy import toy_data

STUDENT = {"name": "sasrec", "num_tokens": 12, "context_length": 8, "width": 8}
RECIPE = {"student": STUDENT, "lr": 0.02, "batch_size": 3}


def own_artifact(data: Any, **changes: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    source = {name: getattr(data, name) for name in SOURCE}
    return toy_artifact(
        latent=torch.randn(3, 8, 2, generator=generator),
        decoder=torch.randn(2, 12, generator=generator),
        vocabulary=list(data.vocabulary.ids),
        source=source,
        recipe={**RECIPE, **changes},
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"student": None}, "`recipe.student` is missing"),
    ({"student": [1]}, "`recipe.student` must be an object, got list"),
    ({"student": {"width": 8}}, "`recipe.student.name` must be a name, got None"),
    (
        {"student": {**STUDENT, "width": 10**9}},
        "`recipe.student.width` must be from 0 to 65,536, got 1000000000",
    ),
    ({"student": {**STUDENT, "num_layers": 10**30}}, "`recipe.student.num_layers` must be from 0"),
    ({"student": {**STUDENT, "num_layers": -1}}, "`recipe.student.num_layers` must be from 0"),
    (
        {"student": {**STUDENT, "num_tokens": 11}},
        "`recipe.student.num_tokens` is 11, and the artifact has 12",
    ),
    (
        {"student": {**STUDENT, "num_tokens": "12"}},
        "`recipe.student.num_tokens` is '12'",
    ),
    (
        {"student": {**STUDENT, "width": 60_000, "num_layers": 60_000}},
        "more than 4,294,967,296",
    ),
    ({"batch_size": 0}, "`recipe.batch_size` must be above 0"),
    ({"batch_size": 2.5}, "`recipe.batch_size` must be int, got float"),
    ({"batch_size": None}, "`recipe.batch_size` must be int, got NoneType"),
    ({"lr": "fast"}, "`recipe.lr` must be float, got str"),
    ({"lr": -0.1}, "`recipe.lr` must be above 0"),
    ({"lr": 1e300}, "`recipe.lr` must be above 0 and at most 65,536, got 1e+300"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_a_recipe_that_cannot_be_followed_is_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command that trains: it names the file and the field, and nothing is written."""
    data = toy_data(tmp_path)
    folder = write_artifact(own_artifact(data, **changes), tmp_path / "a")
    out = tmp_path / "model"
    arguments = ["train", str(folder), "--on", str(tmp_path / "toy.tsv"), "--out", str(out), "-q"]
    assert cli.main(arguments) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "farzi.json: `recipe." in line
    assert words in line
    assert not out.exists()


def test_a_recipe_that_can_be_followed_is(tmp_path: Path) -> None:
    artifact = own_artifact(toy_data(tmp_path))
    assert recipe_student(artifact) == STUDENT
    assert recipe_number(artifact, "lr", float) == 0.02
    assert recipe_number(artifact, "batch_size", int) == 3
    with pytest.raises(ArtifactError, match=r"`recipe\.lr` is missing"):
        recipe_number(toy_artifact(), "lr", float)
    trained = farzi.train(
        farzi.DistilledDataset(artifact), on=toy_data(tmp_path), max_steps=10, patience=1
    )
    assert trained.model.student.width == 8


def test_a_size_that_a_student_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = {**STUDENT, "num_heads": 3}
    folder = write_artifact(own_artifact(toy_data(tmp_path), student=student), tmp_path / "a")
    out = str(tmp_path / "model")
    arguments = ["train", str(folder), "--on", str(tmp_path / "toy.tsv"), "--out", out]
    assert cli.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "sasrec" in line
    assert "must be a multiple of" in line


@pytest.mark.parametrize("command", ["train", "compare", "inspect"])
def test_a_sources_name_is_never_opened(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe of that name would wait for ever; a file's first line would be in the message."""
    secret = tmp_path / "secret"
    secret.write_text("user,item,time\nalice,diary,1\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in (str(secret), str(pipe), "/dev/zero", "../secret", "\x1b[2Jevil"):
        folder = write_artifact(
            toy_artifact(source={**SOURCE, "name": name}, recipe=RECIPE),
            tmp_path / "a",
            overwrite=True,
        )
        arguments = {
            "train": ["train", str(folder), "--out", str(tmp_path / "model")],
            "compare": ["compare", str(folder)],
            "inspect": ["inspect", str(folder)],
        }[command]
        code = cli.main(arguments)
        printed = capsys.readouterr()
        assert code == (0 if command == "inspect" else 2)
        assert "alice" not in printed.out + printed.err
        assert "\x1b" not in printed.out + printed.err
        if command != "inspect":
            assert "does not say where that lies" in printed.err
            assert printed.err.count("\n") == 1
