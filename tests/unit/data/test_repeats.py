"""Repeated events: counted exactly, and one decision about seen items for every split seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from farzi.data import PreparedData, prepare, repeats
from farzi.data.preparation import arguments_of
from farzi.data.repeats import Repetition, count_repetition, decide_seen_items
from farzi.data.sequences import Sequences
from farzi.errors import SettingsError

Row = tuple[str, str, int]


def every_item_once(num_users: int = 40, length: int = 6) -> list[Row]:
    return [(f"u{u:02d}", f"i{(u + k) % 11}", k) for u in range(num_users) for k in range(length)]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return path


def said(data: PreparedData) -> str:
    return next(part for part in data.protocol_line().split(" | ") if part.startswith("seen items"))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_repeats_and_duplicates_are_those_of_a_plain_count(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    logs = [
        sorted((int(t), int(i)) for t, i in rng.integers(6, size=(int(n), 2)))
        for n in rng.integers(0, 15, size=30)
    ]
    sequences = Sequences.from_lists([[item for _, item in log] for log in logs])
    tied = [k > 0 and log[k][0] == log[k - 1][0] for log in logs for k in range(len(log))]
    found = count_repetition(sequences, np.array(tied))
    events = [len(log) for log in logs]
    at_once = [len(set(log)) for log in logs]
    items = [len({item for _, item in log}) for log in logs]
    assert found == Repetition(sum(events), sum(at_once) - sum(items), sum(events) - sum(at_once))
    assert found.repeats > 0 < found.duplicates


def test_one_row_too_many_does_not_change_the_protocol_of_any_seed(tmp_path: Path) -> None:
    rows = every_item_once()
    for name, extra in {
        "written twice": [rows[7]],
        "seen again": [(*rows[7][:2], 99)],
        "everything written twice": rows,
    }.items():
        log = write(tmp_path / f"{name}.csv", rows + extra)
        for seed in range(5):
            data = prepare(log, split_seed=seed)
            assert (data.seen_items, data.protocol["seen_items_by"]) == ("leave-out", "rule")
            duplicates = 0 if name == "seen again" else len(extra)
            assert data.protocol["exact_duplicates"] == duplicates
            assert data.protocol["repeated_events"] == (name == "seen again")
            stated = f"repeats kept, exact duplicates: {duplicates} |"
            assert (stated in data.protocol_line()) == bool(duplicates)


@pytest.mark.parametrize(("repeated", "seen_items"), [(12, "leave-out"), (13, "keep")])
def test_the_share_of_the_whole_log_decides(repeated: int, seen_items: str, tmp_path: Path) -> None:
    rows = every_item_once()  # 240 events
    again = [(user, item, time + 50) for user, item, time in rows[:repeated]]
    log = write(tmp_path / "log.csv", rows + again)
    share = repeated / (240 + repeated)
    for seed in (0, 1, 2):
        data = prepare(log, split_seed=seed)
        assert data.seen_items == seen_items
        verb = "kept" if seen_items == "keep" else "left out"
        assert said(data) == (
            f"seen items {verb} ({share:.2%} of events repeat one; kept above 5%)"
        )
    assert prepare(log, split="leave-last-out").seen_items == seen_items


def test_the_rule_is_a_share_and_not_a_count() -> None:
    assert decide_seen_items(Repetition(10_000_000, 400_000, 0)) == "leave-out"
    assert decide_seen_items(Repetition(100, 6, 0)) == "keep"
    assert decide_seen_items(Repetition(200, 6, 100)) == "keep"


def test_what_is_asked_for_overrules_rule_and_source(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", every_item_once())
    for source, choice in itertools.product((log, "stdlib-calls"), ("keep", "leave-out")):
        data = prepare(source, seen_items=choice)  # type: ignore[arg-type]
        assert data.seen_items == choice
        words = "seen items kept" if choice == "keep" else "seen items left out"
        assert said(data) == f"{words} (as asked)"
    assert said(prepare("stdlib-calls")) == "seen items kept (as the source says)"
    assert said(prepare("stdlib-calls", repeats="first")) == "seen items left out"
    with pytest.raises(SettingsError, match="--seen-items is for event logs, and stdlib-docs"):
        prepare("stdlib-docs", seen_items="keep")


def test_a_prepared_folder_can_be_ranked_another_way_but_not_filtered(tmp_path: Path) -> None:
    data = prepare(write(tmp_path / "log.csv", every_item_once()))
    data.save(tmp_path / "prepared")
    other = prepare(tmp_path / "prepared", seen_items="keep")
    assert said(other) == "seen items kept (as asked)"
    assert other.train == data.train
    assert prepare(tmp_path / "prepared", seen_items="leave-out", repeats="keep") == data
    with pytest.raises(SettingsError, match=r"--repeats first: .* was prepared with keep"):
        prepare(tmp_path / "prepared", repeats="first")


def test_the_protocol_prepares_the_same_data_again(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", every_item_once())
    text = log.read_text().replace("user,item,time", "who,what,when")
    log.write_text(text)
    columns = {"user_col": "who", "item_col": "what", "time_col": "when"}
    for settings in ({}, {"seen_items": "keep"}, {"repeats": "first", "k_core": 3}):
        data = prepare(log, **columns, **settings)  # type: ignore[arg-type]
        again = prepare(log, **arguments_of(data.task, data.seen_items, data.protocol))
        assert again == data
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"line {n} of {n % 5}" for n in range(30)))
    data = prepare(notes, vocabulary_size=7)
    assert prepare(notes, **arguments_of(data.task, data.seen_items, data.protocol)) == data


@pytest.mark.parametrize(("name", "again"), [("ml-100k", 0), ("ml-1m", 0), ("magazine", 472)])
def test_the_known_logs(name: str, again: int, data_root: Path) -> None:
    data = prepare(name, data_root=data_root)
    counts = [data.protocol[key] for key in ("repeated_events", "exact_duplicates")]
    assert sum(map(int, counts)) == again  # type: ignore[arg-type]
    assert data.seen_items == ("keep" if name == "magazine" else "leave-out")
    assert data.protocol["seen_items_by"] == "source"


def test_the_known_file_under_its_own_path_is_left_out_too(data_root: Path) -> None:
    columns = {"user_col": "1", "item_col": "2", "time_col": "4"}
    data = prepare(data_root / "ml-100k.u.data.gz", **columns)  # type: ignore[arg-type]
    assert said(data) == "seen items left out (0.00% of events repeat one; kept above 5%)"
    assert data.parts == prepare("ml-100k", data_root=data_root).parts
