"""A text cut by a tokenizer from a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farzi.data import PreparedData, prepare
from farzi.data.tokenizer import read_tokenizer
from farzi.errors import DataError, SettingsError
from farzi.evaluation import sequences_of
from made_tokenizers import LINES, byte_level, unigram, word_piece, write_lines


def library(folder: Path) -> Any:
    import tokenizers

    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def changed(folder: Path, change: Any) -> None:
    """Write a folder's tokenizer.json again, changed."""
    file = folder / "tokenizer.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "eos"), [(byte_level, "<|endoftext|>"), (word_piece, "[SEP]"), (unigram, "</s>")]
)
def test_tokens_are_those_of_the_library_with_the_end_after_each_line(
    make: Any, eos: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "small")
    data = prepare(write_lines(tmp_path / "notes.txt"), tokenizer=folder)
    loaded = library(folder)
    assert data.vocabulary.size == loaded.get_vocab_size()
    assert [loaded.id_to_token(token) for token in range(data.vocabulary.size)] == list(
        data.vocabulary.ids
    )
    end = loaded.token_to_id(eos)
    expected = [[*loaded.encode(line, add_special_tokens=False).ids, end] for line in LINES]
    found = [row.tolist() for part in data.parts.values() for row in part]
    assert sorted(found) == sorted(expected)
    assert [row.tolist() for row in data.train] == [
        row for row in expected if row in [r.tolist() for r in data.train]
    ]
    first = [int(row[0]) for row in sequences_of(data, "test")]
    assert first == [end] * len(data.test)  # so that the first token of a line is predicted, too


def test_bytes_go_there_and_back(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small")
    text = tmp_path / "notes.txt"
    text.write_text("".join(f"naïve 🦉 {n}  тест   {n}!\n" for n in range(20)), encoding="utf-8")
    data = prepare(text, tokenizer=folder)
    loaded = library(folder)
    lines = {loaded.decode(row[:-1].tolist()) for part in data.parts.values() for row in part}
    assert lines == {f"naïve 🦉 {n}  тест   {n}!" for n in range(20)}
    assert data.protocol["unknown_share"] == 0.0
    assert data.notes == ("the tokenizer knows every word, as bytes where not as pieces of it",)


def test_the_protocol_names_it_by_its_content(tmp_path: Path) -> None:
    folder = word_piece(tmp_path / "bert\nsmall")
    text = write_lines(tmp_path / "notes.txt")
    data = prepare(text, tokenizer=folder)
    tokenizer = read_tokenizer(folder)
    assert data.protocol["tokenizer"] == "bert small"
    assert data.protocol["tokenizer_sha256"] == tokenizer.sha256
    assert data.protocol_line(9).endswith(
        f"vocabulary {data.vocabulary.size} uncut | every sentence ends with [SEP] | "
        f"tokens: tokenizer bert small (sha256 {tokenizer.sha256[7:19]})"
    )
    other = json.loads((folder / "tokenizer.json").read_text())
    other["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(other))
    assert prepare(text, tokenizer=folder).identity.difference(data.identity) == "tokens"
    assert data.identity.difference(prepare(text).identity) == "tokens"


def test_unknown_pieces_are_counted(tmp_path: Path) -> None:
    folder = word_piece(tmp_path / "small")
    text = tmp_path / "notes.txt"
    text.write_text("".join(f"The cat {'ж' * n} 猫\n" for n in range(1, 21)), encoding="utf-8")
    data = prepare(text, tokenizer=folder)
    assert data.protocol["unknown_share"] == 0.5
    assert data.warnings == (
        "50.0% of the held-out words are [UNK]: the tokenizer is of another language, or of "
        "another kind of text",
    )


def test_what_is_left_out_or_cannot_be_cut_is_said(tmp_path: Path) -> None:
    """A tokenizer without a token for the unknown drops it, or fails at it, by its model."""
    import tokenizers

    text = tmp_path / "notes.txt"
    text.write_text("".join(f"b a{'b' * n}\n" for n in range(10)), encoding="utf-8")
    ids = {"<eos>": 0, "a": 1}
    models = {
        "dropping": tokenizers.models.BPE(vocab=ids, merges=[]),
        "failing": tokenizers.models.WordLevel(vocab=ids, unk_token="[UNK]"),
    }
    for name, model in models.items():
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        (tmp_path / name).mkdir()
        made.save(str(tmp_path / name / "tokenizer.json"))
    data = prepare(text, tokenizer=tmp_path / "dropping")
    assert data.warnings == (
        "the tokenizer has no token for what it does not know, and may leave it out",
    )
    with pytest.raises(DataError, match=r"the tokenizer failing cannot cut 'b a' \(.*UNK"):
        prepare(text, tokenizer=tmp_path / "failing")


def test_a_prepared_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = byte_level(tmp_path / "small")
    data = prepare(write_lines(tmp_path / "notes.txt"), tokenizer=folder)
    data.save(tmp_path / "prepared")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tokenizers", None)  # not needed to load it
        again = PreparedData.load(tmp_path / "prepared")
    assert again.tokenizer == data.tokenizer
    assert again.tokenizer.name == "small"
    assert again.protocol_line() == data.protocol_line()
    assert np.array_equal(again.train.tokens, data.train.tokens)
    again.save(tmp_path / "prepared", overwrite=True)  # knows its own files
    assert prepare(tmp_path / "prepared", tokenizer=folder).identity == data.identity
    other = word_piece(tmp_path / "other")
    with pytest.raises(SettingsError, match=r"--tokenizer .*other: .*prepared with small; prep"):
        prepare(tmp_path / "prepared", tokenizer=other)
    changed(tmp_path / "prepared", lambda value: value.update(padding=None))
    with pytest.raises(DataError, match="not the tokenizer that the text was prepared with"):
        PreparedData.load(tmp_path / "prepared")
    (tmp_path / "prepared/tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"prepared: holds no tokenizer\.json"):
        PreparedData.load(tmp_path / "prepared")


def test_every_kind_of_text_takes_it(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    folder = byte_level(tmp_path / "small")
    parts = tmp_path / "parts"
    parts.mkdir()
    for part in ("train", "valid", "test"):
        (parts / f"{part}.txt").write_text("One line.\n\nAnd another.\n")
    data = prepare(parts, tokenizer=folder)
    assert (data.split_kind, len(data.train)) == ("official", 2)
    table = prepare(pa.table({"text": LINES}), tokenizer=folder)
    assert table.protocol["tokenizer"] == "small"


CHANGES = {
    "no `model`": lambda value: value.pop("model"),
    "no `model.vocab`": lambda value: value["model"].pop("vocab"),
    "must count from 0 without a gap": lambda value: value["model"]["vocab"].update(new=999),
    "the token 'a' has two ids": lambda value: value["added_tokens"].append(
        {**value["added_tokens"][0], "content": "a", "id": 400}
    ),
    "must give each token an id": lambda value: value["model"]["vocab"].update(new="1"),
    r"`model\.dropout` cuts the same text otherwise": lambda value: value["model"].update(
        dropout=0.1
    ),
    "cannot be used: .*": lambda value: value["model"].update(type="GPT"),
    "`added_tokens` must be a list of": lambda value: value.update(added_tokens=["a"]),
    "`added_tokens` must be a list": lambda value: value.update(added_tokens=7),
}


@pytest.mark.parametrize("said", CHANGES)
def test_damage_is_named_in_one_line(said: str, tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small")
    changed(folder, CHANGES[said])
    with pytest.raises(DataError, match=rf"small/tokenizer\.json: .*{said}") as caught:
        prepare(write_lines(tmp_path / "notes.txt"), tokenizer=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"[]", "has no `model`"),
        (b'{"model": {"vocab": {"a": 0, "a": 1}}}', "a key is given twice"),
        (b'{"model": {"vocab": {}}}', "must count from 0"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_is_none_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"tokenizer\.json: cannot be used: .*{said}"):
        read_tokenizer(tmp_path)


class PanicException(BaseException):
    """As Rust's panics are called in Python."""


@pytest.mark.parametrize("raised", [PanicException("range end index 7"), KeyboardInterrupt()])
def test_a_panic_of_the_library_is_one_line_and_an_interrupt_is_one(
    raised: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @staticmethod
        def from_str(content: str) -> None:
            raise raised

    folder = byte_level(tmp_path / "small")
    monkeypatch.setattr("tokenizers.Tokenizer", Broken)
    panics = isinstance(raised, PanicException)
    with pytest.raises(DataError if panics else KeyboardInterrupt) as caught:
        read_tokenizer(folder)
    if panics:
        assert str(caught.value).endswith("tokenizer.json: cannot be used: range end index 7.")


def test_folders_that_hold_none(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"nowhere: there is no such folder\."):
        prepare(text, tokenizer=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"notes\.txt: is a file; name its folder\."):
        prepare(text, tokenizer=text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no tokenizer\.json; .*save_pretrained"):
        prepare(text, tokenizer=tmp_path / "empty")
    os.mkfifo(tmp_path / "empty/tokenizer.json")
    with pytest.raises(DataError, match=r"empty: holds no tokenizer\.json"):
        prepare(text, tokenizer=tmp_path / "empty")


def test_the_end_of_a_sentence_must_be_known(tmp_path: Path) -> None:
    named = byte_level(tmp_path / "named", {"eos_token": "<end>"})
    with pytest.raises(DataError, match="`eos_token` '<end>' is no token"):
        read_tokenizer(named)
    (named / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: cannot be read \(not an object"):
        read_tokenizer(named)
    guessed = byte_level(tmp_path / "guessed", {})
    assert read_tokenizer(guessed).eos == "<|endoftext|>"
    file = guessed / "tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "<|stop|>"))
    with pytest.raises(DataError, match="no token that ends a sentence; name one as `eos_token`"):
        read_tokenizer(guessed)
    (guessed / "special_tokens_map.json").write_text('{"eos_token": "<|stop|>"}')
    assert read_tokenizer(guessed).eos == "<|stop|>"


def test_settings_that_contradict_it(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small")
    text = write_lines(tmp_path / "notes.txt")
    with pytest.raises(SettingsError, match="--tokens blanks: the tokenizer cuts the text"):
        prepare(text, tokenizer=folder, tokens="blanks")
    with pytest.raises(SettingsError, match="--vocabulary-size 50: the tokenizer has a vocabulary"):
        prepare(text, tokenizer=folder, vocabulary_size=50)
    assert prepare(text, tokenizer=folder, vocabulary_size=0).vocabulary.size == 300
    with pytest.raises(SettingsError, match="--tokenizer is for texts"):
        prepare("stdlib-calls", tokenizer=folder)


def test_without_the_library_it_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = byte_level(tmp_path / "small")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(SettingsError, match=r"needs the library `tokenizers`: pip install"):
        prepare(write_lines(tmp_path / "notes.txt"), tokenizer=folder)
