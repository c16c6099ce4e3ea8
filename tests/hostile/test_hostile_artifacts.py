"""Broken and malicious artifacts: each is refused in one line that names the file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_examples import SOURCE, toy_artifact
from farzi.artifact import read_artifact, write_artifact
from farzi.artifact.parquet import render_parquet
from farzi.errors import ArtifactError

WORDS = ["<unk>", "<eos>", "the", "of", "N"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(toy_artifact(), tmp_path / "toy")


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    artifact = toy_artifact(source={**SOURCE, "task": "language"}, vocabulary=WORDS)
    return write_artifact(artifact, tmp_path / "text")


def replace(folder: Path, name: str, content: bytes) -> None:
    """Write a file and its hash, as an attacker would."""
    (folder / name).write_bytes(content)
    manifest = folder / "MANIFEST.sha256"
    lines = [line.split("  ") for line in manifest.read_text().splitlines()]
    hashes = {path: value for value, path in lines} | {name: hashlib.sha256(content).hexdigest()}
    manifest.write_text("".join(f"{value}  {path}\n" for path, value in hashes.items()))


def change_settings(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "farzi.json").read_text())
    change(value)
    replace(folder, "farzi.json", json.dumps(value).encode())


def refusal(folder: Path) -> str:
    """Return the one line with which the artifact is refused."""
    with pytest.raises(ArtifactError) as raised:
        read_artifact(folder)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


# --------------------------------------------------------------------------------- files, hashes


@pytest.mark.parametrize(
    "name", ["farzi.safetensors", "farzi.json", "items.parquet", "data/train.parquet", "README.md"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "link", "pipe", "folder"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str, tmp_path: Path) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    assert str(path) in refusal(folder)


def test_a_linked_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    assert "a link" in refusal(folder)


def test_no_artifact_is_no_artifact(tmp_path: Path) -> None:
    assert "MANIFEST.sha256 is missing" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{'0' * 64}  ../../etc/passwd", "../../etc/passwd is not a file of an artifact"),
        (f"{'0' * 64}  /etc/passwd", "/etc/passwd is not a file of an artifact"),
        (f"{'0' * 64}  data/../farzi.json", "is not a file of an artifact"),
        (f"{'0' * 64}  evil.py", "evil.py is not a file of an artifact"),
        (f"{'0' * 64}  README.md", "README.md is listed twice"),
        ("not a hash  README.md", "is not a SHA-256 and a file name"),
        (f"{'0' * 64}  a\x1b[2Jb", "a\\x1b[2Jb is not a file"),
        ("x" * 5000, "more than"),
    ],
)
def test_a_manifest_lists_files_of_the_format_once(folder: Path, line: str, words: str) -> None:
    manifest = folder / "MANIFEST.sha256"
    manifest.write_text(manifest.read_text() + line + "\n")
    assert words in refusal(folder)


def test_a_manifest_is_complete(folder: Path) -> None:
    manifest = folder / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines(keepends=True)
    for left_out in lines:
        manifest.write_text("".join(line for line in lines if line != left_out))
        assert left_out.split()[1] in refusal(folder)


def test_a_manifest_is_text(folder: Path) -> None:
    (folder / "MANIFEST.sha256").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(folder)


def test_files_beside_the_artifact_are_never_opened(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    (folder / "farzi.pkl").symlink_to("/etc/passwd")
    assert read_artifact(folder).num_sequences == 3


def test_a_file_larger_than_allowed_is_not_read(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="bytes, more than 16"):
        read_artifact(folder, max_bytes=16)


def test_a_sparse_giant_is_not_read(folder: Path) -> None:
    os.truncate(folder / "README.md", 1 << 40)
    assert "more than" in refusal(folder)


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"a": 1' * 20_000, "JSON"),
        (b'{"format": "farzi", "format": "farzi"}', "twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"name": "\\ud800"}', "JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a":1}'.decode().encode("utf-16"), "not UTF-8"),
        (b"[]", "must be dict"),
        (b"null", "must be dict"),
        (b"{}", "`format`"),
        (b" " * (5 << 20), "more than"),
    ],
)
def test_broken_json(folder: Path, content: bytes, words: str) -> None:
    replace(folder, "farzi.json", content)
    line = refusal(folder)
    assert "farzi.json" in line
    assert words in line


WRONG_VALUES = [None, True, 1, -1.5, "x", [], [1], {}, {"a": 1}]
KEYS = ["format", "format_version", "shape", "temperature", "recipe", "source", "scores"]
PATHS = (
    [(key,) for key in KEYS]
    + [("source", key) for key in SOURCE]
    + [("shape", key) for key in ("sequences", "length", "rank", "vocabulary")]
)


@pytest.mark.parametrize("path", PATHS, ids="/".join)
def test_a_value_of_the_wrong_type_is_refused_or_kept(folder: Path, path: tuple[str, ...]) -> None:
    """Every wrong type, in every place: `ArtifactError` naming the key, never anything else."""
    original = json.loads((folder / "farzi.json").read_text())
    for wrong in WRONG_VALUES:
        value = json.loads(json.dumps(original))
        place = value
        for key in path[:-1]:
            place = place[key]
        if type(place[path[-1]]) is type(wrong) and path[-1] != "shape":
            continue
        place[path[-1]] = wrong
        replace(folder, "farzi.json", json.dumps(value).encode())
        line = refusal(folder)
        assert "farzi.json" in line or "farzi.safetensors" in line
        assert path[-1] in line or path[0] == "shape"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(extra=1), "`extra` is not a key"),
        (lambda s: s["source"].update(host="x"), "`host` is not a key of source"),
        (lambda s: s["shape"].update(batch=1), "`batch` is not a key of shape"),
        (lambda s: s.pop("recipe"), "`recipe` is missing"),
        (lambda s: s["source"].pop("split_seed"), "`split_seed` is missing"),
        (lambda s: s.update(format_version=3), "`format_version` is 3"),
        (lambda s: s.update(format="pickle"), "`format`"),
        (lambda s: s.update(temperature=0.0), "`temperature`"),
        (lambda s: s.update(temperature=1e400), "JSON"),
        (lambda s: s["source"].update(task="vision"), "`source.task`"),
        (lambda s: s["source"].update(task="language"), "tokenizer.json is not listed"),
        (lambda s: s["source"].update(fingerprint="sha256:xyz"), "`source.fingerprint`"),
        (lambda s: s["source"]["protocol"].update(a={}), "`source.protocol.a`"),
        (lambda s: s["shape"].update(length=0), "`shape.length`"),
        (lambda s: s["shape"].update(length=10**30), "`latent` must be of shape"),
        (lambda s: s["shape"].update(vocabulary=6), "`decoder` must be of shape"),
        (lambda s: s.update(hard_token_seed=-1), "`hard_token_seed`"),
        (lambda s: s.update(hard_token_seed=1 << 80), "`hard_token_seed`"),
    ],
)
def test_wrong_settings(folder: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    change_settings(folder, change)
    assert words in refusal(folder)


def test_nesting_is_bounded(folder: Path) -> None:
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    change_settings(folder, lambda s: s["recipe"].update(deep=nested))
    assert "deep" in refusal(folder)


def test_a_number_that_overflows_is_not_finite(folder: Path) -> None:
    text = (folder / "farzi.json").read_text().replace('"steps": 20', '"steps": 1e999')
    replace(folder, "farzi.json", text.encode())
    assert "`recipe.steps` is not finite" in refusal(folder)


# --------------------------------------------------------------------------------------- tensors


def safetensors_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD_HEADER = {
    "latent": {"dtype": "F32", "shape": [3, 4, 2], "data_offsets": [0, 96]},
    "decoder": {"dtype": "F32", "shape": [2, 5], "data_offsets": [96, 136]},
}


def changed(name: str, **entries: Any) -> dict[str, Any]:
    return {**GOOD_HEADER, name: {**GOOD_HEADER.get(name, {}), **entries}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\x00" * 7, "7 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "header"),
        (struct.pack("<Q", 1 << 20) + b" " * (1 << 20), "header"),
        (safetensors_file(b"[" * 60_000), "JSON"),
        (safetensors_file([]), "`the header`"),
        (safetensors_file({"latent": {}}), "`decoder` is missing"),
        (safetensors_file({**GOOD_HEADER, "__metadata__": {"a": "b"}}, bytes(136)), "metadata"),
        (safetensors_file({**GOOD_HEADER, "extra": {}}, bytes(136)), "`extra` is not a tensor"),
        (safetensors_file({**GOOD_HEADER, "learned.../x": {}}, bytes(136)), "is not a tensor"),
        (safetensors_file(changed("latent", dtype="F64"), bytes(136)), "`latent` must be F32"),
        (safetensors_file(changed("latent", dtype=1), bytes(136)), "`dtype`"),
        (safetensors_file(changed("latent", extra=1), bytes(136)), "`extra`"),
        (safetensors_file(changed("latent", shape=[1 << 62, 8]), bytes(136)), "`latent`"),
        (
            safetensors_file(
                changed("lengths", dtype="F32", shape=[3], data_offsets=[136, 148]), bytes(148)
            ),
            "`lengths` must be I64",
        ),
        (
            safetensors_file(
                changed("lengths", dtype="I64", shape=[3], data_offsets=[136, 160]), bytes(160)
            ),
            "`lengths` must be from 1 to 4",
        ),
        (safetensors_file(changed("latent", shape=[4, 3, 2]), bytes(136)), "`latent`"),
        (safetensors_file(changed("latent", data_offsets=[0, 95]), bytes(136)), "safetensors"),
        (safetensors_file(changed("latent", data_offsets=[-1, 95]), bytes(136)), "safetensors"),
        (safetensors_file(changed("latent", data_offsets=[0]), bytes(136)), "safetensors"),
        (safetensors_file(changed("decoder", data_offsets=[0, 40]), bytes(96)), "safetensors"),
        (safetensors_file(GOOD_HEADER, bytes(135)), "safetensors"),
        (safetensors_file(GOOD_HEADER, bytes(137)), "safetensors"),
        (
            safetensors_file(
                {
                    **GOOD_HEADER,
                    "learned.lr": {"dtype": "F32", "shape": [0], "data_offsets": [136, 136]},
                },
                bytes(136),
            ),
            "`learned.lr` is empty",
        ),
        (
            safetensors_file(
                {
                    **GOOD_HEADER,
                    "learned.lr": {
                        "dtype": "F32",
                        "shape": [1 << 40, 1 << 40],
                        "data_offsets": [136, 136],
                    },
                },
                bytes(136),
            ),
            "safetensors",
        ),
    ],
)
def test_broken_tensor_files(folder: Path, content: bytes, words: str) -> None:
    replace(folder, "farzi.safetensors", content)
    line = refusal(folder)
    assert "farzi.safetensors" in line
    assert words in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["latent", "decoder", "learned.lr"])
def test_numbers_that_are_not_finite(folder: Path, name: str, value: float) -> None:
    tensors = safetensors.torch.load_file(folder / "farzi.safetensors")
    tensors[name].view(-1)[-1] = value
    replace(folder, "farzi.safetensors", safetensors.torch.save(tensors))
    assert f"farzi.safetensors: `{name}` is not finite" in refusal(folder)


@settings(max_examples=150)
@given(position=st.integers(0, 2000), value=st.integers(0, 255), name=st.integers(0, 2))
def test_any_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, name: int
) -> None:
    """With the hash made to fit: an `ArtifactError` or an artifact, never another exception."""
    folder = write_artifact(toy_artifact(), tmp_path_factory.mktemp("fuzz") / "toy")
    file = ["farzi.safetensors", "farzi.json", "items.parquet"][name]
    content = bytearray((folder / file).read_bytes())
    content[position % len(content)] = value
    replace(folder, file, bytes(content))
    with contextlib.suppress(ArtifactError):
        assert torch.isfinite(read_artifact(folder).latent).all()


# ------------------------------------------------------------------------------------ vocabulary


FIVE = ["a", "b", "c", "d", "e"]
GOOD = render_parquet({"item_id": FIVE})


def of_another_writer(items: list[Any]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"item_id": items}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short"),
        (b"PAR1" + bytes(20) + b"PAR1", "no page"),
        (GOOD[:-8] + struct.pack("<I", 0) + b"PAR1", "no page"),
        (GOOD[:-8] + struct.pack("<I", (1 << 32) - 1) + b"PAR1", "no page"),
        (GOOD[:-4] + b"PAR2", "not one column"),
        (GOOD + GOOD, "no page"),
        (of_another_writer(FIVE), "no page"),
        (of_another_writer(["x" * (1 << 20)] * 5), "no page"),
        (render_parquet({"item_id": FIVE[:4]}), "no page of 5 values"),
        (render_parquet({"other": FIVE}), "not one column item_id"),
        (render_parquet({"item_id": FIVE, "other": FIVE}), "no page"),
        (render_parquet({"item_id": [[item] for item in FIVE]}), "not one column"),
        (GOOD.replace(b"\x01\x00\x00\x00e", b"\xff\xff\xff\x7fe"), "not one column"),
        (GOOD.replace(b"\x01\x00\x00\x00e", b"\x01\x00\x00\x00\xff"), "utf-8"),
        (render_parquet({"item_id": [*FIVE[:4], "a"]}), "`vocabulary` repeats an id"),
        (render_parquet({"item_id": [1, 2, 3, 4, 4]}), "`vocabulary` repeats an id"),
    ],
)
def test_broken_item_lists(folder: Path, content: bytes, words: str) -> None:
    replace(folder, "items.parquet", content)
    line = refusal(folder)
    assert "items.parquet" in line
    assert words in line


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        ([], "must be dict"),
        ({}, "each token below 5 once"),
        ({"a": 0, "b": 1, "c": 2, "d": 3, "e": 3}, "each token"),
        ({"a": 0, "b": 1, "c": 2, "d": 3, "e": True}, "words to ints"),
        ({"a": 0, "b": 1, "c": 2, "d": 3, "e": 4.0}, "words to ints"),
        ({"a": 0, "b": 1, "c": 2, "d": 3, "e": 5}, "each token"),
    ],
)
def test_broken_tokenizers(text_folder: Path, vocabulary: Any, words: str) -> None:
    content = json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}})
    replace(text_folder, "tokenizer.json", content.encode())
    line = refusal(text_folder)
    assert "tokenizer.json" in line
    assert words in line


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"model": 1}', b'{"model": {"type": "BPE"}}', b"{"]
)
def test_another_kind_of_tokenizer_is_refused(text_folder: Path, content: bytes) -> None:
    replace(text_folder, "tokenizer.json", content)
    assert "tokenizer.json" in refusal(text_folder)
