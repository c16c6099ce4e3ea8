"""Small tokenizers, trained on a few lines, in folders as `save_pretrained` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

LINES = [
    f"{who} {verb} the {what} near the Straße, naïvely."
    for who in ("A cat", "The dog", "My bird", "No one")
    for verb in ("sees", "follows", "forgets")
    for what in ("mouse", "river", "letter", "moon", "clock")
]


def write_lines(path: Path) -> Path:
    """A text of sixty sentences."""
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def byte_level(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Byte-level BPE, as GPT-2's: knows everything; `<|endoftext|>` ends a text."""
    tokenizers = pytest.importorskip("tokenizers", reason="it comes with the extra `hf`")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(LINES, trainer)
    return _saved(made, folder, {"eos_token": "<|endoftext|>"} if config is None else config)


def word_piece(folder: Path) -> Path:
    """WordPiece, as BERT's: lower case, `[UNK]`, and `[CLS]` and `[SEP]` around a text."""
    tokenizers = pytest.importorskip("tokenizers", reason="it comes with the extra `hf`")
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(strip_accents=False)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=90, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    made.decoder = tokenizers.decoders.WordPiece()
    made.enable_truncation(4)  # as published ones have it: sentences must stay whole
    made.enable_padding(length=8, pad_id=3, pad_token="[PAD]")
    config = {
        "unk_token": "[UNK]",
        "sep_token": {"content": "[SEP]", "special": True},
        "cls_token": "[CLS]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",  # not among its tokens
        "name_or_path": "/home/someone/secret",
        "auto_map": {"AutoTokenizer": ["theirs.Tokenizer", None]},
    }
    return _saved(made, folder, config)


def unigram(folder: Path) -> Path:
    """Unigram, as SentencePiece's: `<unk>` by its place, `</s>` named nowhere."""
    tokenizers = pytest.importorskip("tokenizers", reason="it comes with the extra `hf`")
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    return _saved(made, folder, None)


def _saved(made: Any, folder: Path, config: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
