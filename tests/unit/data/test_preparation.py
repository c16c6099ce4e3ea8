"""From a source to sequences: splits, what may see what, and the published counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from farzi.data import SOURCES, PreparedData, prepare
from farzi.data.splits import hash_ids, three_ways
from farzi.errors import DataError, SettingsError

USERS = [f"u{number:02d}" for number in range(30)]
ITEMS = [f"item{number}" for number in range(12)]


def write_log(path: Path, *, changed: frozenset[str] = frozenset()) -> Path:
    """A log in time order; the users in `changed` take the same items in another order."""
    rng = np.random.default_rng(0)
    rows = []
    for user in USERS:
        items = [ITEMS[i] for i in rng.integers(len(ITEMS), size=int(rng.integers(4, 20)))]
        order = items[::-1] if user in changed else items
        rows += [f"{user},{item},{time}\n" for time, item in enumerate(order)]
    path.write_text("user,item,time\n" + "".join(rows))
    return path


def sentence(number: int) -> str:
    return f"line {number} says word{number % 7} and word{number % 3}"


def bytes_of(data: PreparedData, folder: Path, part: str) -> bytes:
    data.save(folder)
    return b"".join((folder / f"{part}.{kind}.npy").read_bytes() for kind in ("tokens", "offsets"))


def test_a_users_events_stand_in_time_order_and_decode_to_the_original_ids(tmp_path: Path) -> None:
    data = prepare(write_log(tmp_path / "shop.csv"))
    assert data.name == "shop"
    assert data.vocabulary.ids == tuple(sorted(ITEMS))
    assert [len(part) for part in data.parts.values()] == [24, 3, 3]
    users = [USERS[place] for place in three_ways(30, 0, what="users").train]
    assert data.train_users_hash == hash_ids(users)
    rows = [line.split(",") for line in (tmp_path / "shop.csv").read_text().split()[1:]]
    for user, sequence in zip(users, data.train, strict=True):
        assert data.vocabulary.decode(sequence) == [item for who, item, _ in rows if who == user]


def test_nothing_that_is_learned_from_moves_when_held_out_users_change(tmp_path: Path) -> None:
    places = three_ways(len(USERS), 0, what="users")
    log = write_log(tmp_path / "log.csv")
    before = prepare(log)
    held_out = {"test": places.test, "validation": places.validation}
    for part, members in held_out.items():
        other = tmp_path / f"{part}.csv"
        write_log(other, changed=frozenset(USERS[place] for place in members))
        after = prepare(other)
        assert after.fingerprint != before.fingerprint
        assert after.train_users_hash == before.train_users_hash
        assert after.vocabulary == before.vocabulary
        assert after.seen_items == before.seen_items
        for name in before.parts:
            same = bytes_of(before, tmp_path / f"{part}-{name}-before", name) == bytes_of(
                after, tmp_path / f"{part}-{name}-after", name
            )
            assert same == (name != part)


def test_words_are_chosen_on_the_training_text_alone(tmp_path: Path) -> None:
    lines = [sentence(number) for number in range(40)]
    places = three_ways(len(lines), 0, what="lines")
    file = tmp_path / "text.txt"
    file.write_text("\n".join(lines))
    before = prepare(file, vocabulary_size=12)
    for place in (*places.test, *places.validation):
        lines[place] = "quite another thing " * 30
    file.write_text("\n".join(lines))
    after = prepare(file, vocabulary_size=12)
    assert after.vocabulary == before.vocabulary
    assert after.train == before.train
    assert after.test != before.test
    assert after.train_users_hash == before.train_users_hash


def test_leave_last_out_holds_out_events_of_every_user(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    data = prepare(log, split="leave-last-out")
    assert data.split_seed == 0
    assert [len(part) for part in data.parts.values()] == [30, 30, 30]
    for train, validation, test in zip(data.train, data.validation, data.test, strict=True):
        assert train.tolist() == test[:-2].tolist()
        assert validation.tolist() == test[:-1].tolist()


def test_another_seed_is_another_split_and_the_same_seed_the_same(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    assert prepare(log, split_seed=1) == prepare(log, split_seed=1)
    assert prepare(log, split_seed=1).train_users_hash != prepare(log).train_users_hash


def test_filters_are_named_in_the_protocol_line(tmp_path: Path) -> None:
    data = prepare(write_log(tmp_path / "log.csv"), k_core=3, min_length=6, repeats="first")
    assert data.protocol_line().endswith("repeats: first kept | k-core 3 | min length 6")
    assert min(data.train.lengths) >= 6


def test_a_text_is_split_by_lines_and_keeps_every_word_on_demand(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(sentence(number) for number in range(40)))
    data = prepare(file, vocabulary_size=0)
    assert (data.task, data.split_kind, data.name) == ("language", "lines", "notes")
    assert [len(part) for part in data.parts.values()] == [32, 4, 4]
    first = three_ways(40, 0, what="lines").train[0]
    assert data.vocabulary.decode(data.train[0]) == [*sentence(first).split(), "<eos>"]
    assert prepare(file, vocabulary_size=5).vocabulary.size == 5


def test_a_prepared_folder_is_a_source_of_its_own_split(tmp_path: Path) -> None:
    data = prepare(write_log(tmp_path / "log.csv"), split_seed=3)
    data.save(tmp_path / "prepared")
    assert prepare(tmp_path / "prepared", split_seed=3) == data
    with pytest.raises(SettingsError, match=r"--split-seed 0: .* was prepared with seed 3"):
        prepare(tmp_path / "prepared")
    with pytest.raises(SettingsError, match="--split leave-last-out"):
        prepare(tmp_path / "prepared", split_seed=3, split="leave-last-out")
    with pytest.raises(SettingsError, match="--task language"):
        prepare(tmp_path / "prepared", split_seed=3, task="language")


def test_stages_are_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    prepare(write_log(tmp_path / "log.csv"), progress=lambda *stage: seen.append(stage))
    assert seen == [
        (0, 3, "reading"),
        (1, 3, "ordering the events"),
        (2, 3, "splitting"),
        (3, 3, "done"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k_core": -1}, "`k_core` must be an int >= 0, got -1."),
        ({"k_core": 1.5}, "`k_core` must be an int >= 0, got 1.5."),
        ({"min_length": 1}, "`min_length` must be an int >= 2, got 1."),
        ({"split": "random"}, "`split` must be one of 'users', 'leave-last-out', got 'random'."),
        ({"repeats": "drop"}, "`repeats` must be one of 'keep', 'first', got 'drop'."),
        ({"task": "vision"}, "`task` must be one of 'recommend', 'language', got 'vision'."),
        ({"engine": "pandas"}, "`engine` must be one of 'duckdb', 'spark', got 'pandas'."),
        ({"vocabulary_size": 2}, "`vocabulary_size` must be 0 or an int >= 3, got 2."),
        ({"split_seed": -1}, "`split_seed` must be an int from 0 to 4294967295, got -1."),
    ],
)
def test_refuses_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        prepare("stdlib-calls", **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_refuses_settings_that_do_not_fit_the_source(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    with pytest.raises(SettingsError, match="--vocabulary-size is for texts"):
        prepare(log, vocabulary_size=100)
    with pytest.raises(
        SettingsError, match="--k-core is for event logs, and stdlib-docs is a text"
    ):
        prepare("stdlib-docs", k_core=5)
    with pytest.raises(SettingsError, match="--task language: ml-100k is for recommend"):
        prepare("ml-100k", task="language")
    (tmp_path / "ml-100k.u.data").write_text("1\t1\t5\t3\n")
    with pytest.raises(SettingsError, match="--user-col: how ml-100k is read is known"):
        prepare("ml-100k", data_root=tmp_path, user_col="who")


def test_prepared_data_load_with_numpy_alone(tmp_path: Path) -> None:
    prepare(write_log(tmp_path / "log.csv")).save(tmp_path / "prepared")
    code = (
        "import sys\n"
        "for name in ('torch', 'duckdb', 'ibis', 'pyarrow', 'pandas', 'rich', 'cyclopts'):\n"
        "    sys.modules[name] = None\n"
        "from farzi.data import PreparedData\n"
        f"print(PreparedData.load({str(tmp_path / 'prepared')!r}).vocabulary.size)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.stdout.strip() == str(len(ITEMS)), child.stderr


# --------------------------------------------------------------------------------- known datasets


def test_the_calls_of_the_standard_library() -> None:
    data = prepare("stdlib-calls")
    assert data.seen_items == "keep"
    assert int(data.train.lengths.min()) >= 5
    assert data.vocabulary.encode(["append", "isinstance"]).min() >= 0
    if sys.version_info[:2] == (3, 11):
        assert data.protocol["users"] == pytest.approx(1_100, rel=0.1)
        assert data.protocol["events"] == pytest.approx(36_000, rel=0.1)
        assert data.protocol["items"] == pytest.approx(2_100, rel=0.1)


def test_the_documentation_of_the_standard_library() -> None:
    data = prepare("stdlib-docs")
    assert data.split_kind == "documents"
    assert data.vocabulary.size == 2_000
    assert data.train.num_tokens > 100_000


@pytest.mark.parametrize(
    ("name", "settings", "counts"),
    [
        ("ml-100k", {}, (943, 1_682, 100_000)),
        ("ml-1m", {}, (6_040, 3_706, 1_000_209)),
        ("ml-1m", {"k_core": 5}, (6_040, 3_416, 999_611)),
        ("magazine", {}, (3_092, 1_305, 12_689)),
        ("magazine", {"repeats": "first"}, (2_825, 1_299, 11_685)),
        ("magazine", {"k_core": 5, "min_length": 2}, (326, 138, 2_236)),
    ],
)
def test_published_counts_of_event_logs(
    name: str, settings: dict[str, object], counts: tuple[int, int, int], data_root: Path
) -> None:
    data = prepare(name, data_root=data_root, **settings)  # type: ignore[arg-type]
    protocol = data.protocol
    assert (protocol["users"], protocol["items"], protocol["events"]) == counts
    assert protocol["as_published"] is True
    users = counts[0]
    assert len(data.validation) == len(data.test) == users // 10
    assert sum(part.num_tokens for part in data.parts.values()) == counts[2]
    assert data.protocol_line().startswith(f"{name} | users 80/10/10 seed 0 | ")
    assert sys.getsizeof(data.train.tokens) < 10_000_000


def test_movielens_ties_keep_the_order_of_the_source(data_root: Path) -> None:
    data = prepare("ml-100k", data_root=data_root)
    rows = read_rows(data_root / "ml-100k.u.data.gz")
    users = sorted({row[0] for row in rows})
    place = three_ways(len(users), 0, what="users").test[7]
    mine = [row for row in rows if row[0] == users[place]]
    expected = [item for _, item, _, _ in sorted(mine, key=lambda row: row[3])]  # stable
    assert data.vocabulary.decode(data.test[7]) == expected


def read_rows(path: Path) -> list[tuple[int, int, int, int]]:
    import gzip

    with gzip.open(path, "rt") as stream:
        return [tuple(map(int, line.split())) for line in stream]  # type: ignore[misc]


def test_published_counts_of_the_penn_treebank(data_root: Path) -> None:
    cut = prepare("ptb", data_root=data_root)
    whole = prepare("ptb", data_root=data_root, vocabulary_size=0, split_seed=7)
    for data in (cut, whole):
        assert [part.num_tokens for part in data.parts.values()] == [929_589, 73_760, 82_430]
        assert [len(part) for part in data.parts.values()] == [42_068, 3_370, 3_761]
        assert (data.split_kind, data.split_seed) == ("official", 0)
        assert data.protocol["as_published"] is True
    assert cut.vocabulary.size == 2_000
    assert whole.vocabulary.size == 10_000
    unknown = whole.vocabulary.encode(["<unk>"])
    assert [int((part.tokens == unknown).sum()) for part in whole.parts.values()] == [
        45_020, 3_485, 4_794,
    ]  # fmt: skip


def test_a_known_dataset_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    for name, source in SOURCES.items():
        if not source.embedded:
            with pytest.raises(DataError, match=f"{name}: .* is not in the data root"):
                prepare(name, data_root=tmp_path)


def test_sequences_do_not_depend_on_the_memory_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.csv"
    rng = np.random.default_rng(0)
    rows = rng.integers([3_000, 500, 50], size=(200_000, 3))
    log.write_text("user,item,time\n" + "".join(f"u{u},{i},{t}\n" for u, i, t in rows))
    whole = prepare(log)
    monkeypatch.setattr("farzi.data.logs._LEAST_MEMORY", 64 << 20)
    monkeypatch.setattr("farzi.data.logs._MEMORY_A_THREAD", 8 << 20)
    monkeypatch.setattr("farzi.data.logs._BATCH", 2_048)
    assert prepare(log) == whole
