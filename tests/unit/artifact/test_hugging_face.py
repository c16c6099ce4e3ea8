"""The artifact's folder as the Hugging Face libraries read it."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

from artifact_examples import SOURCE, toy_artifact
from farzi.artifact import hard_tokens, write_artifact
from farzi.data.text import tokenise

WORDS = ["<unk>", "<eos>", "the", "of", "don't", ".", "N", "n"]

needs_hf = "it comes with the extra `hf`"


def text_artifact(folder: Path, rule: str) -> Path:
    source = {**SOURCE, "task": "language", "protocol": {"tokens": rule}}
    decoder = torch.randn(2, len(WORDS), generator=torch.Generator().manual_seed(0))
    return write_artifact(toy_artifact(source=source, decoder=decoder, vocabulary=WORDS), folder)


def test_two_artifacts_loaded_in_a_row_give_each_its_own_rows(tmp_path: Path) -> None:
    """`datasets` caches by the folder's name, which is `artifact` in every run."""
    datasets = pytest.importorskip("datasets", reason=needs_hf)
    for seed in (0, 1):
        latent = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed))
        artifact = toy_artifact(latent=latent)
        folder = write_artifact(artifact, tmp_path / str(seed) / "artifact")
        rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
        expected = [[artifact.vocabulary[token] for token in row] for row in hard_tokens(artifact)]
        assert rows["item_ids"][:] == expected


@pytest.mark.parametrize("rule", ["words", "blanks"])
def test_a_tokenizer_knows_its_special_tokens(rule: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason=needs_hf)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(text_artifact(tmp_path / "a", rule)))
    assert (tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == len(WORDS)
    found = tokenizer("The bank of N. <eos>")
    assert set(found) == {"input_ids", "attention_mask"}
    assert found["input_ids"] == ([2, 0, 3, 7, 5, 1] if rule == "words" else [0, 0, 3, 0, 1])
    assert tokenizer.decode([2, 3, 6, 1]) == "the of N <eos>"


def cut(tokenizer: Any, line: str) -> list[str]:
    """Return the words that a tokenizer of the `tokenizers` library cuts a line into."""
    if tokenizer.normalizer is not None:
        line = tokenizer.normalizer.normalize_str(line)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(line)]


@pytest.mark.parametrize("rule", ["words", "characters", "blanks"])
def test_a_line_is_cut_as_farzi_cuts_it(rule: Any, tmp_path: Path) -> None:
    """Every character that this Python knows, inside a word; and whole lines.

    The two libraries know Unicode of different years, and three characters went another way since.
    """
    moved = "\u00b8\u0c3c\U00011a3a"
    tokenizers = pytest.importorskip("tokenizers", reason=needs_hf)
    path = text_artifact(tmp_path / "a", rule) / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    lines = [
        "Don't panic: mr. N",
        "ΟΔΟΣ ΣΑΣ, ΣΟΦΙΑΣ.",
        "’tis l'été — İstanbul, Straße, ½ a_b <unk> a<unk>b <eos>",
        "a\x1cb\x85c\u2003d\u3000e\n f",
        "नमस्ते दोस्त, क्षत्रिय বাংলা স্ত্রী 今天天气 ภาษาไทย カタカナ 한국어 e\u0301te\u0301 👩‍👩‍👧",
        "json.decoder 3.14 e.g. l'été",
    ]
    known = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] != "C"]
    known = [c for c in known if c not in moved]
    lines += [f"A{'B '.join(known[start : start + 4096])}B" for start in range(0, len(known), 4096)]
    for line in lines:
        assert cut(tokenizer, line) == tokenise(line, rule)


def test_characters_are_put_together_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason=needs_hf)
    source = {**SOURCE, "task": "language", "protocol": {"tokens": "characters"}}
    words = ["<unk>", "<eos>", " ", "a", "é"]
    folder = write_artifact(toy_artifact(source=source, vocabulary=words), tmp_path / "a")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer(" a  e\u0301a ").input_ids
    assert ids == [3, 2, 4, 3]
    assert tokenizer.decode(ids) == "a éa"
