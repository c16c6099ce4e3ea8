"""`farzi sources` and `farzi prepare`, called as from a shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farzi.cli import main
from farzi.data import SOURCES, PreparedData, prepare


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A small log of ten users."""
    file = tmp_path / "shop.csv"
    rows = [f"{user},{(user + place) % 7},{place}\n" for user in range(10) for place in range(6)]
    file.write_text("who,what,at\n" + "".join(rows))
    return file


COLUMNS = ["--user-col", "who", "--item-col", "what", "--time-col", "at"]


def test_sources_are_listed_with_their_licences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ml-100k.u.data.gz").touch()
    assert main(["sources", "--data-root", str(tmp_path), "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["sources"]}
    assert listed.keys() == SOURCES.keys()
    assert [name for name, entry in listed.items() if entry["at_hand"]] == [
        "stdlib-calls",
        "stdlib-docs",
        "ml-100k",
    ]
    assert all(entry["licence"] for entry in listed.values())
    assert main(["sources", "--data-root", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in SOURCES)


def test_prepare_writes_what_the_library_makes(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared"
    assert main(["prepare", str(log), "--out", str(out), *COLUMNS, "--split-seed", "2"]) == 0
    expected = prepare(log, user_col="who", item_col="what", time_col="at", split_seed=2)
    assert PreparedData.load(out) == expected
    printed = capsys.readouterr().out
    assert expected.protocol_line() in printed
    assert str(out) in printed


def test_prepare_prints_json(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepared"
    arguments = ["--k-core", "2", "--min-length", "3", "--repeats", "first", "--json", "-q"]
    assert main(["prepare", str(log), "--out", str(out), *COLUMNS, *arguments]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert captured.err == ""
    assert record["protocol"]["k_core"] == 2
    assert record["protocol_line"].endswith("repeats: first kept | k-core 2 | min length 3")
    assert record["fingerprint"] == PreparedData.load(out).fingerprint


def test_prepare_leaves_an_existing_folder_unless_forced(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared"
    command = ["prepare", str(log), "--out", str(out), *COLUMNS, "-q"]
    assert main(command) == 0
    before = (out / "prepared.json").read_bytes()
    assert main([*command, "--split-seed", "1"]) == 1
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert (out / "prepared.json").read_bytes() == before
    assert main([*command, "--split-seed", "1", "--force"]) == 0
    assert PreparedData.load(out).split_seed == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.csv"], 1, "nowhere.csv: there is no such file."),
        (["ml-100"], 1, "such as ml-100k"),
        (["{log}"], 1, "no user column among who, what, at; name it with --user-col"),
        (["{log}", *COLUMNS, "--k-core", "-1"], 2, "--k-core must be an int >= 0, got -1."),
        (["{log}", *COLUMNS, "--vocabulary-size", "9"], 2, "--vocabulary-size is for texts"),
        (["{log}", *COLUMNS, "--kcore", "5"], 2, "Close matches: --k-core"),
        (["{log}", *COLUMNS, "--split", "half"], 2, "--split"),
    ],
)
def test_failures_are_one_line_and_write_nothing(
    arguments: list[str],
    code: int,
    said: str,
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "prepared"
    filled = [argument.replace("{log}", str(log)) for argument in arguments]
    assert main(["prepare", *filled, "--out", str(out), "-q"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.csv"]


def test_prepare_says_what_was_found_and_what_looks_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.csv"
    rows = [
        f"{u if u < 4 else 'NA'},{(u + k) % 7},{u * 6 + k}\n" for u in range(9) for k in range(6)
    ]
    file.write_text("userId,Item ID,time\n" + "".join(rows))
    command = ["prepare", str(file), "--out", str(tmp_path / "prepared"), "--force"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "\nnote: the largest user has 55.6% of all events, the most frequent item 14.8%\n"
        in printed
    )
    assert "\nwarning: 56% of all events have the user 'NA'" in printed
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    loaded = PreparedData.load(tmp_path / "prepared")
    assert (record["notes"], record["warnings"]) == (list(loaded.notes), list(loaded.warnings))
    assert captured.err.count("warning: ") == len(loaded.warnings) == 1


def test_prepare_reads_what_only_flags_tell(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text(
        "".join(f"u{u};" + ";".join(f"i{u + k}" for k in range(4)) + "\n" for u in range(9))
    )
    out = str(tmp_path / "prepared")
    assert main(["prepare", str(file), "--out", out, "-q"]) == 1
    flags = ["--format", "user-lines", "--delimiter", ";", "--seen-items", "keep"]
    assert main(["prepare", str(file), "--out", out, "-q", *flags]) == 0
    data = PreparedData.load(out)
    assert (data.protocol["users"], data.seen_items) == (9, "keep")
    (tmp_path / "notes.txt").write_text("to be\n" * 20)
    flags = ["--tokens", "characters", "--force"]
    assert main(["prepare", str(tmp_path / "notes.txt"), "--out", out, "-q", *flags]) == 0
    assert PreparedData.load(out).vocabulary.size == 7
