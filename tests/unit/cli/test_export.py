"""`farzi export` on a toy artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifact_examples import toy_artifact
from farzi import cli
from farzi.artifact import write_artifact


@pytest.fixture
def run(tmp_path: Path) -> Path:
    labels = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    write_artifact(toy_artifact(label_latent=labels), tmp_path / "run" / "artifact")
    return tmp_path / "run"


@pytest.mark.parametrize("to", ["parquet", "csv", "recbole", "hf", "topk"])
def test_it_says_what_was_written(
    to: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["export", str(run), "--to", to, "--out", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == out
    assert found["rows"] == {"hf": 3, "topk": 3 * 4 * 5}.get(to, 12)
    assert 0 < found["coverage"] <= 1
    assert cli.main(["export", str(run), "--to", to, "--out", out, "--force"]) == 0
    printed = capsys.readouterr().out
    assert f"cover {found['coverage']:.1%} of the 5 ids" in printed
    if to in ("parquet", "csv", "recbole"):
        assert "much worse models" in printed


def test_a_smaller_artifact(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    arguments = ["export", str(run), "--to", "artifact", "--out", str(out)]
    assert cli.main([*arguments, "--dtype", "int8", "--tokens", "hard"]) == 0
    assert "bytes of tensors became" in capsys.readouterr().out
    assert cli.main(["inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tokens"], found["dtype"]) == ("hard", "int8")
    assert found["examples"][0][0]["probabilities"] == [1.0]
    assert cli.main(["inspect", str(out)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "csv", "--top-k", "3"], "--top-k is for --to topk or hf, not for csv."),
        (["--to", "topk", "--samples", "3"], "--samples is for --to parquet or csv or recbole"),
        (["--to", "csv", "--samples", "0"], "--samples must be an int >= 1, got 0."),
        (["--to", "topk", "--top-k", "0"], "--top-k must be an int >= 1, got 0."),
        (["--to", "artifact"], "--to artifact needs --dtype or --tokens"),
        (["--to", "xlsx"], "xlsx"),
    ],
)
def test_a_wrong_flag(
    arguments: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    arguments = ["export", str(run), "--to", "csv", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
