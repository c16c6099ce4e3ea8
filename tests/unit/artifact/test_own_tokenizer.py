"""An artifact of a text that a tokenizer of the user's has cut: it carries that tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import farzi
from artifact_examples import SOURCE, toy_artifact
from farzi.artifact import Artifact, read_artifact, write_artifact
from farzi.data.tokenizer import Tokenizer, read_tokenizer
from farzi.errors import ArtifactError
from farzi.export import export
from made_tokenizers import LINES, byte_level, word_piece


def artifact_of(folder: Path, **protocol: Any) -> Artifact:
    """An artifact whose vocabulary is that of the tokenizer in a folder."""
    tokenizer = read_tokenizer(folder)
    own = {
        "tokens": "tokenizer",
        "vocabulary_size": 0,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
        "eos": tokenizer.eos,
    }
    decoder = torch.randn(2, len(tokenizer.tokens), generator=torch.Generator().manual_seed(0))
    source = {**SOURCE, "task": "language", "protocol": {**own, **protocol}}
    return toy_artifact(
        source=source, decoder=decoder, vocabulary=tokenizer.tokens, tokenizer=tokenizer
    )


@pytest.mark.parametrize("make", [byte_level, word_piece])
def test_what_is_written_is_read_again(make: Any, tmp_path: Path) -> None:
    artifact = artifact_of(make(tmp_path / "small"))
    folder = write_artifact(artifact, tmp_path / "a")
    assert (folder / "tokenizer.json").read_bytes() == (
        tmp_path / "small/tokenizer.json"
    ).read_bytes()
    again = read_artifact(folder)
    assert again.tokenizer == artifact.tokenizer
    assert tuple(again.vocabulary) == artifact.tokenizer.tokens
    write_artifact(again, tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json", "farzi.json", "MANIFEST.sha256"):
        assert (tmp_path / "b" / name).read_bytes() == (folder / name).read_bytes()
    config = (folder / "tokenizer_config.json").read_text()
    assert "secret" not in config  # paths and code that the user's own file may name
    assert "auto_map" not in config


@pytest.mark.parametrize("make", [byte_level, word_piece])
def test_transformers_loads_the_same_tokenizer(make: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="it comes with the extra `hf`")
    artifact = artifact_of(make(tmp_path / "small"))
    write_artifact(artifact, tmp_path / "a")
    export(farzi.load(tmp_path / "a"), "hf", tmp_path / "hf")
    for folder in ("a", "hf"):
        loaded = transformers.AutoTokenizer.from_pretrained(str(tmp_path / folder))
        assert len(loaded) == artifact.vocabulary_size
        assert loaded.convert_ids_to_tokens(range(len(loaded))) == list(artifact.vocabulary)
        for role, token in artifact.tokenizer.special.items():
            assert getattr(loaded, role) == token
        for line in LINES[:5]:
            ids = loaded(line, add_special_tokens=False).input_ids
            assert loaded.convert_ids_to_tokens(ids) == artifact.tokenizer.cut(line)


def test_an_artifact_folder_is_a_tokenizer_folder(tmp_path: Path) -> None:
    artifact = artifact_of(word_piece(tmp_path / "small"))
    folder = write_artifact(artifact, tmp_path / "a")
    again = read_tokenizer(folder)
    assert (again.sha256, again.eos) == (artifact.tokenizer.sha256, "[SEP]")


def test_a_tokenizer_belongs_to_its_protocol(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small")
    artifact = artifact_of(folder)
    with pytest.raises(ArtifactError, match="`tokenizer` is missing"):
        dataclasses.replace(artifact, tokenizer=None)
    with pytest.raises(ArtifactError, match="`tokenizer` is of no use"):
        artifact_of(folder, tokens="words")
    with pytest.raises(ArtifactError, match=r"SHA-256 is not `source\.protocol\.tokenizer_sha256`"):
        artifact_of(folder, tokenizer_sha256="sha256:" + "0" * 64)
    with pytest.raises(ArtifactError, match=r"`source\.protocol\.eos` is not among its tokens"):
        artifact_of(folder, eos="<nowhere>")
    with pytest.raises(ArtifactError, match="`vocabulary` is not that of the tokenizer"):
        dataclasses.replace(artifact, vocabulary=artifact.vocabulary[::-1])


def resealed(folder: Path, name: str, content: bytes) -> None:
    """Change a file of an artifact, and its hash in the manifest."""
    (folder / name).write_bytes(content)
    lines = (folder / "MANIFEST.sha256").read_text().splitlines()
    digest = hashlib.sha256(content).hexdigest()
    kept = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
    (folder / "MANIFEST.sha256").write_text("\n".join(kept) + "\n")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tokenizer.json", lambda value: value.update(padding=1), r"tokenizer\.json: its SHA-256"),
        ("tokenizer.json", lambda value: value.pop("model"), r"tokenizer\.json: it has no `model`"),
        (
            "tokenizer.json",
            lambda value: value["model"]["vocab"].popitem(),
            r"tokenizer\.json: it has 299 tokens for 300",
        ),
        (
            "tokenizer_config.json",
            lambda value: value.update(eos_token="<nowhere>"),
            r"tokenizer\.json: `eos_token` is not among its tokens",
        ),
        (
            "farzi.json",
            lambda value: value["source"]["protocol"].update(eos=["a"]),
            r"`source\.protocol\.eos` must be a plain value",
        ),
        (
            "farzi.json",
            lambda value: value["source"]["protocol"].update(tokens="words"),
            r'`model\.type` must be "WordLevel"',
        ),
    ],
)
def test_an_untrusted_one_is_checked(name: str, change: Any, said: str, tmp_path: Path) -> None:
    folder = write_artifact(artifact_of(byte_level(tmp_path / "small")), tmp_path / "a")
    value = json.loads((folder / name).read_text())
    change(value)
    resealed(folder, name, json.dumps(value).encode())
    with pytest.raises(ArtifactError, match=said) as caught:
        read_artifact(folder)
    assert "\n" not in str(caught.value)


def test_no_library_looks_at_an_untrusted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_artifact(artifact_of(byte_level(tmp_path / "small")), tmp_path / "a")
    monkeypatch.setattr(Tokenizer, "_library", property(lambda self: pytest.fail("it was opened")))
    read_artifact(folder)
    farzi.load(folder).hard()
