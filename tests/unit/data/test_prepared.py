from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from farzi.data import PreparedData, Sequences, Vocabulary
from farzi.errors import DataError

SHOP = PreparedData(
    task="recommend",
    name="shop",
    train=Sequences.from_lists([[0, 1, 2], [2, 2]]),
    validation=Sequences.from_lists([[1, 0]]),
    test=Sequences.from_lists([[2, 1]]),
    vocabulary=Vocabulary(("a", "b", "c")),
    seen_items="keep",
    fingerprint="sha256:0",
    split_kind="users",
    split_seed=4,
    train_users_hash="sha256:1",
    protocol={"k_core": 0, "min_length": 2, "repeats": "keep"},
)


def test_the_protocol_line_says_everything_a_result_depends_on() -> None:
    assert SHOP.protocol_line(50) == (
        "shop | users 80/10/10 seed 4 | last item is the target | context 50 | "
        "loss of every event but a user's first, once, windows at stride 25 | seen items kept | "
        "full ranking over 3 items | ties in time keep source order | repeats kept | k-core off | "
        "min length 2"
    )
    filtered = dataclasses.replace(
        SHOP,
        seen_items="leave-out",
        split_kind="leave-last-out",
        protocol={"k_core": 5, "min_length": 3, "repeats": "first"},
    )
    assert filtered.protocol_line() == (
        "shop | leave-last-out, all users | last item is the target | seen items left out | "
        "full ranking over 3 items | ties in time keep source order | repeats: first kept | "
        "k-core 5 | min length 3"
    )
    text = dataclasses.replace(
        SHOP,
        task="language",
        split_kind="lines",
        protocol={"vocabulary_size": 3, "tokens": "words"},
    )
    assert text.protocol_line(8) == (
        "shop | lines 80/10/10 seed 4 | context 8 | every token, once, windows at stride 4 | "
        "vocabulary 3 cut on the training text, the rest <unk> | "
        "every sentence ends with <eos> | tokens: words"
    )


def test_comes_back_from_disk_as_memory_maps(tmp_path: Path) -> None:
    SHOP.save(tmp_path / "deep" / "shop")
    loaded = PreparedData.load(tmp_path / "deep" / "shop")
    assert loaded == SHOP
    assert isinstance(loaded.train.tokens, np.memmap)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["shop"]


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        SHOP.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_overwrites_only_what_it_wrote_and_only_when_told(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    SHOP.save(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DataError, match="exists already; --force replaces it"):
        SHOP.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    dataclasses.replace(SHOP, name="other").save(folder, overwrite=True)
    assert PreparedData.load(folder).name == "other"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(DataError, match="left alone"):
        SHOP.save(mine, overwrite=True)
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "not of format 1"),
        ({"task": "translate"}, "the value of 'task' is wrong"),
        ({"split_seed": "0"}, "the value of 'split_seed' is wrong"),
        ({"split_seed": True}, "the value of 'split_seed' is wrong"),
        ({"protocol": []}, "the value of 'protocol' is wrong"),
        ({"extra": 1}, "missing or unknown: extra"),
    ],
)
def test_refuses_a_record_that_it_did_not_write(
    change: dict[str, object], problem: str, tmp_path: Path
) -> None:
    SHOP.save(tmp_path / "shop")
    file = tmp_path / "shop" / "prepared.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=problem):
        PreparedData.load(tmp_path / "shop")


def test_refuses_tokens_outside_the_vocabulary_and_broken_json(tmp_path: Path) -> None:
    SHOP.save(tmp_path / "shop")
    Vocabulary(("a", "b")).save(tmp_path / "shop" / "vocabulary.json")
    with pytest.raises(DataError, match="outside the vocabulary of 2"):
        PreparedData.load(tmp_path / "shop")
    (tmp_path / "shop" / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared\.json: cannot be read"):
        PreparedData.load(tmp_path / "shop")
    with pytest.raises(DataError, match="not a folder that `farzi prepare` wrote"):
        PreparedData.load(tmp_path)
