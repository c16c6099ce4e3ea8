"""One set of flags for a source, and later commands that need none of it again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from farzi import cli
from farzi.cli import flags_of
from farzi.cli._source import Reading
from farzi.data import prepare
from farzi.distill import distill
from toy import SMALL, write_log

READERS = ["prepare", "distill", "train", "evaluate", "compare"]
COLUMNS = {"user_col": "who", "item_col": "what", "time_col": "at"}
GRID = ["--grid-lr", "0.02", "--grid-dropout", "0", "--grid-decay", "0", "--grid-smoothing", "0"]
CAPS = ["--patience", "2", "--max-steps", "40", "--max-epochs", "10"]
QUICK = ["--rows", "full", "farzi", "--seeds", "1", *GRID, *CAPS]


def write_foreign_log(path: Path) -> Path:
    """A log whose columns have names that nobody would guess."""
    text = write_log(path).read_text()
    path.write_text(text.replace("user_id\titem_id\ttimestamp", "who\twhat\tat"))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a log with columns of its own, left in another folder than the log's."""
    log = write_foreign_log(tmp_path / "shop.tsv")
    data = prepare(log, **COLUMNS, min_length=3, split_seed=2)
    settings = SMALL.with_values({"outer.steps": 1})
    distill(data, tmp_path / "run", settings)
    return tmp_path / "run"


@pytest.mark.parametrize("command", READERS)
def test_every_command_that_reads_a_source_has_the_same_flags(command: str) -> None:
    wanted = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Reading)}
    assert wanted <= flags_of(command)
    assert "--split-seed" in flags_of(command) or command in ("evaluate", "compare")


def test_later_commands_need_neither_flags_nor_path(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(tmp_path / "model")
    assert cli.main(["train", str(run), "--out", model, "--max-steps", "20", "-q", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert "shop | users 80/10/10 seed 2" in trained["protocol_line"]
    assert "min length 3" in trained["protocol_line"]
    assert cli.main(["evaluate", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol_line"] == trained["protocol_line"]
    assert cli.main(["compare", str(run), *QUICK, "-q", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["protocol_line"] == trained["protocol_line"].replace("seed 2", "seed 2")
    assert compared["split_seeds"] == [2]


@pytest.mark.parametrize("command", ["train", "evaluate", "compare"])
def test_a_source_that_has_moved_is_asked_for_in_one_line(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "model")
    assert cli.main(["train", str(run), "--out", model, "--max-steps", "10", "-q"]) == 0
    (tmp_path / "shop.tsv").rename(tmp_path / "moved.tsv")
    arguments = {
        "train": ["train", str(run), "--out", str(tmp_path / "again"), "--max-steps", "10", "-q"],
        "evaluate": ["evaluate", model],
        "compare": ["compare", str(run), *QUICK, "-q"],
    }[command]
    capsys.readouterr()
    assert cli.main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "shop.tsv is no longer there" in line
    assert "--on" in line
    assert cli.main([*arguments, "--on", str(tmp_path / "moved.tsv")]) == 0


def test_an_artifact_alone_does_not_say_where_its_source_lies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "artifact").rename(tmp_path / "shared")
    assert str(tmp_path) not in (tmp_path / "shared/farzi.json").read_text()
    train = ["train", str(tmp_path / "shared"), "--out", str(tmp_path / "m"), "--max-steps", "10"]
    assert cli.main([*train, "-q"]) == 2
    line = capsys.readouterr().err
    assert "made from shop" in line
    assert "--on" in line
    assert cli.main([*train, "-q", "--on", str(tmp_path / "shop.tsv")]) == 0


def test_weights_hold_no_path(run: Path, tmp_path: Path) -> None:
    cli.main(["train", str(run), "--out", str(tmp_path / "model"), "--max-steps", "10", "-q"])
    assert str(tmp_path).encode() not in (tmp_path / "model/weights.safetensors").read_bytes()
    assert str(tmp_path / "shop.tsv") in (tmp_path / "model/source.json").read_text()


def test_what_is_asked_for_goes_before_what_is_remembered(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", str(run), "--out", str(tmp_path / "model"), "-q"]
    assert cli.main([*train, "--split-seed", "1"]) == 1
    assert "split_seed 2, not 1" in capsys.readouterr().err
    assert cli.main([*train, "--item-col", "thing"]) == 1
    assert "thing" in capsys.readouterr().err


def test_a_source_beside_a_source_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(tmp_path / "shop.tsv")
    assert cli.main(["train", log, "--on", log, "--out", str(tmp_path / "m")]) == 2
    assert "--on" in capsys.readouterr().err
    assert cli.main(["compare", log]) == 2
    assert "--artifact" in capsys.readouterr().err


def test_a_run_that_has_not_finished_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "artifact").rename(run / "elsewhere")
    assert cli.main(["compare", str(run)]) == 1
    assert "--resume" in capsys.readouterr().err


def test_the_environment_gives_the_shared_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_foreign_log(tmp_path / "shop.tsv")
    for name, value in COLUMNS.items():
        monkeypatch.setenv(f"FARZI_{name.upper()}", value)
    monkeypatch.setenv("FARZI_K_CORE", "2")
    assert cli.main(["prepare", str(log), "--out", str(tmp_path / "out")]) == 0
    assert "k-core 2" in capsys.readouterr().out
    monkeypatch.setenv("FARZI_K_CORE", "many")
    assert cli.main(["prepare", str(log), "--out", str(tmp_path / "out2")]) == 2
    assert "FARZI_K_CORE" in capsys.readouterr().err


def test_a_data_root_is_remembered(data_root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("FARZI_DATA_ROOT")
    data = prepare("ml-100k", data_root=data_root)
    assert data.origin is not None
    assert (data.origin.source, data.origin.data_root) == ("ml-100k", str(data_root))
