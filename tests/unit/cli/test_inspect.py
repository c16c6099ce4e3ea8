"""`farzi inspect` on a toy artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifact_examples import toy_artifact
from farzi import cli
from farzi.artifact import write_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    artifact = toy_artifact(
        latent=torch.eye(5).reshape(1, 5, 5)[:, :4] * 3,
        decoder=torch.eye(5),
        temperature=1.0,
        label_latent=torch.zeros(1, 4, 5),
        lengths=torch.tensor([3]),
    )
    return write_artifact(artifact, tmp_path / "run" / "artifact").parent


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(folder), "--top", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == {
        "sequences": 1,
        "length": 4,
        "tokens": 3,
        "bytes": 4 * (20 + 25 + 20 + 1) + 8,
        "rank": 5,
        "vocabulary": 5,
    }
    soft = (torch.tensor([3.0, 0, 0, 0, 0])).softmax(0)
    assert found["entropy_bits"] == pytest.approx(
        {
            "uniform": torch.tensor(5.0).log2().item(),
            "labels": torch.tensor(5.0).log2().item(),
            "tokens": -(soft * soft.log2()).sum().item(),
        }
    )
    assert [step["ids"] for step in found["examples"][0]] == [["B0001"], ["B0007"], ["é"]]
    assert found["recipe"]["student"] == "sasrec"
    assert found["learned"] == {"lr": pytest.approx(0.01)}


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("toy: 1 sequences of 4, 3 tokens, 272 bytes")
    assert "recipe       optimizer (lr 0.01, name adam), steps 20, student sasrec" in printed
    assert "0  B0001 0.83" in printed


def test_an_artifact_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = [f"\x1b[2J\n{letter}" for letter in "abcde"]
    folder = write_artifact(toy_artifact(vocabulary=vocabulary), tmp_path / "a")
    cli.main(["inspect", str(folder)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J\\na" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--sequences", "-1"], 2, "--sequences must be an int >= 0, got -1."),
        (["--tokns", "1"], 2, "--tokens"),
    ],
)
def test_a_wrong_flag(
    folder: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(folder), *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_corrupt_artifact_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "artifact" / "farzi.json").write_text("{}")
    assert cli.main(["inspect", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "farzi.json" in printed.err
