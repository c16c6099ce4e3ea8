"""A text cut by a tokenizer of the user's, from the file to the table, without a flag again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import farzi
from farzi.cli import main
from made_tokenizers import byte_level, write_lines
from toy import TINY_BY_NAME


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a text, with its tokenizer beside it."""
    home = tmp_path_factory.mktemp("text")
    tokenizer, text = byte_level(home / "small"), write_lines(home / "notes.txt")
    sets = [part for name, x in TINY_BY_NAME.items() for part in ("--set", f"{name}={x}")]
    out = home / "run"
    command = ["distill", str(text), "--tokenizer", str(tokenizer), "--out", str(out), "-q"]
    assert main([*command, *sets]) == 0
    return out


def test_later_commands_need_no_flag(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = run.parent / "model"
    assert main(["train", str(run), "--out", str(model), "--max-steps", "10"]) == 0
    assert main(["evaluate", str(model)]) == 0
    told = capsys.readouterr().out
    assert "every sentence ends with <|endoftext|> | tokens: tokenizer small (sha256 " in told
    few = ["--rows", "full", "farzi", "--seeds", "1", "--grid-lr", "0.05", "--grid-dropout", "0"]
    table = run.parent / "table.json"
    command = ["compare", str(run), *few, "--grid-decay", "0", "--max-epochs", "3"]
    assert main([*command, "--max-steps", "20", "--json", str(table)]) == 0
    result = json.loads(table.read_text())
    assert "tokens: tokenizer small (sha256 " in result["protocol_line"]
    assert {row["name"] for row in result["rows"]} == {"full", "farzi"}
    assert (run / "report.html").is_file() or main(["report", str(run)]) == 0
    assert main(["inspect", str(run)]) == 0


def test_only_the_run_knows_where_the_tokenizer_lies(run: Path) -> None:
    settings = json.loads((run / "settings.json").read_text())
    assert settings["origin"]["tokenizer"] == str(run.parent / "small")
    for file in (run / "artifact").rglob("*"):
        if file.is_file():
            assert str(run.parent).encode() not in file.read_bytes(), file
    assert farzi.load(run).artifact.tokenizer.name == "small"


def test_a_model_reads_histories_of_its_tokens(run: Path) -> None:
    trained = farzi.train(run, max_steps=3)
    tokenizer = farzi.load(run).artifact.tokenizer
    assert len(trained.model.recommend([tokenizer.cut("The dog sees")], k=3)[0]) == 3


def test_it_asks_where_the_tokenizer_is_now(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    record = json.loads((copy / "settings.json").read_text())
    record["origin"]["tokenizer"] = str(tmp_path / "gone")
    (copy / "settings.json").write_text(json.dumps(record))
    command = ["train", str(copy), "--max-steps", "2", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 2
    said = capsys.readouterr().err
    assert f"its tokenizer {tmp_path}/gone is no longer there" in said
    assert "--tokenizer" in said
    other = byte_level(tmp_path / "other", {"eos_token": "a"})
    assert main([*command, str(tmp_path / "two"), "--tokenizer", str(other)]) == 1
    assert "not the tokenizer that" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "three"), "--tokenizer", str(copy / "artifact")]) == 0


def test_an_artifact_alone_asks_for_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "artifact", tmp_path / "alone")
    text = str(run.parent / "notes.txt")
    command = ["train", str(tmp_path / "alone"), "--on", text, "--max-steps", "2", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 2
    assert "was cut by the tokenizer small" in capsys.readouterr().err
    place = str(run.parent / "small")
    assert main([*command, str(tmp_path / "one"), "--tokenizer", place]) == 0


def test_another_cut_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal sizes of two vocabularies must not pass for equal vocabularies."""
    model = tmp_path / "model"
    assert main(["train", str(run), "--out", str(model), "--max-steps", "2", "-q"]) == 0
    words = farzi.prepare(run.parent / "notes.txt", tokens="characters")
    with pytest.raises(farzi.errors.ArtifactError, match="trained on tokens tokenizer sha256:"):
        farzi.evaluate(model, on=words)
    with pytest.raises(farzi.errors.ArtifactError, match="distilled with tokens tokenizer sha256:"):
        farzi.train(run, on=words, max_steps=2)


def test_a_run_goes_on_only_with_its_tokenizer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for name, x in TINY_BY_NAME.items() for part in ("--set", f"{name}={x}")]
    text = str(run.parent / "notes.txt")
    other = run.parent / "other"
    byte_level(other)
    file = other / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))  # the same, in other bytes
    command = ["distill", text, "--out", str(run), "--resume", "-q", *sets, "--tokenizer"]
    assert main([*command, str(other)]) == 2
    assert "--resume: tokenizer was 'sha256:" in capsys.readouterr().err
    assert main([*command, str(run.parent / "small")]) == 0
