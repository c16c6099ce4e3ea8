"""float16, int8 and hard tokens: what is read is what was rounded, and the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifact_examples import toy_artifact
from farzi.artifact import read_artifact, write_artifact
from farzi.artifact.storage import DTYPES, pack, rounded_to
from farzi.errors import ArtifactError

LABELS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hard", [False, True])
def test_round_trip(dtype: Any, hard: bool, tmp_path: Path) -> None:
    artifact = toy_artifact(label_latent=LABELS, dtype=dtype)
    if hard:
        artifact = artifact.hardened()
    first = write_artifact(artifact, tmp_path / "first")
    found = read_artifact(first)
    torch.testing.assert_close(found.tensors, artifact.rounded().tensors, rtol=0, atol=0)
    assert (found.dtype, found.has_hard_tokens, found.rank) == (dtype, hard, 2)
    assert found.num_bytes == artifact.num_bytes
    stored = safetensors.torch.load_file(first / "farzi.safetensors")
    assert found.num_bytes == sum(t.numel() * t.element_size() for t in stored.values())
    assert file_bytes(write_artifact(found, tmp_path / "second")) == file_bytes(first)


def test_what_is_stored(tmp_path: Path) -> None:
    artifact = toy_artifact(label_latent=LABELS, dtype="int8").hardened()
    folder = write_artifact(artifact, tmp_path / "a")
    stored = safetensors.torch.load_file(folder / "farzi.safetensors")
    assert {name: (str(t.dtype), tuple(t.shape)) for name, t in stored.items()} == {
        "tokens": ("torch.int32", (3, 4)),
        "label_latent": ("torch.int8", (3, 4, 2)),
        "label_latent.scale": ("torch.float32", (3, 4)),
        "decoder": ("torch.int8", (2, 5)),
        "decoder.scale": ("torch.float32", (2,)),
        "learned.lr": ("torch.float32", ()),
    }
    settings = json.loads((folder / "farzi.json").read_text())
    assert (settings["tokens"], settings["dtype"]) == ("hard", "int8")
    card = (folder / "README.md").read_text()
    assert "tokens are ids" in card
    assert "Synthetic sequences of tokens with soft labels, made by farzi" in card
    assert "`data/train.parquet`: the tokens, in original ids" in card
    assert "int8 with a scale a row" in card


floats = st.floats(-(2.0**90), 2.0**90, width=32)


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=4))
def test_int8_is_near_and_rounds_to_itself(rows: list[list[float]]) -> None:
    tensors = {"decoder": torch.tensor(rows)}
    once = rounded_to(tensors, "int8")
    torch.testing.assert_close(rounded_to(once, "int8"), once, rtol=0, atol=0)
    first, again = pack(tensors, "int8"), pack(once, "int8")
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    error = (once["decoder"] - tensors["decoder"]).abs().amax(-1)
    most = tensors["decoder"].abs().amax(-1)
    assert bool((error <= most / 253 + 2.0**-100).all())


def test_float16_refuses_what_it_cannot_hold() -> None:
    artifact = toy_artifact(decoder=torch.full((2, 5), 1e5), dtype="float16")
    with pytest.raises(ArtifactError, match=r"`decoder` has 1e.05, more than float16 holds"):
        artifact.rounded()


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(ArtifactError, match="`dtype` must be float32, float16, int8, got 'int4'"):
        toy_artifact(dtype="int4")


def test_hard_tokens_are_the_likeliest_and_need_labels() -> None:
    artifact = toy_artifact(label_latent=LABELS)
    hard = artifact.hardened()
    assert torch.equal(hard.synthetic.tokens(), artifact.synthetic.tokens().argmax(-1))
    torch.testing.assert_close(hard.synthetic.labels(), artifact.synthetic.labels())
    assert set(hard.synthetic.factors()) == {"decoder", "labels"}
    assert hard.hardened() is hard
    with pytest.raises(ArtifactError, match="`label_latent` is missing"):
        toy_artifact().hardened()
    with pytest.raises(ArtifactError, match="`label_latent` is missing"):
        toy_artifact(latent=torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ArtifactError, match="`tokens` must be from 0 to 4"):
        toy_artifact(latent=torch.full((3, 4), 5), label_latent=LABELS)
