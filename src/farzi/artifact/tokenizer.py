"""tokenizer.json and tokenizer_config.json: farzi's own text reader, as Hugging Face loads it.

`tokenizers` and `transformers` turn a line into the tokens that farzi turns it into: normalised,
lower-cased and cut as `farzi.data.text.tokenise` does by the rule that the artifact's protocol
names, with `<unk>` and `<eos>` known. Nothing is put around a line; farzi itself ends every
sentence with `<eos>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from farzi.artifact.layout import Json

__all__ = ["render_tokenizer", "render_tokenizer_config"]

UNKNOWN, EOS = "<unk>", "<eos>"

_LETTER = r"[\p{L}\p{N}_]"
_BLANK = r"\s\x1c-\x1f"  # what Python calls white space
_WORD = rf"<unk>|{_LETTER}+(?:['’]{_LETTER}+)*|[^\p{{L}}\p{{N}}_{_BLANK}]"


def render_tokenizer(words: Sequence[str], rule: str) -> Json:
    """Return the content of tokenizer.json.

    Args:
        words: the vocabulary, in token order.
        rule: how a line is cut, as `farzi.data.text.tokenise` knows it; another one is taken for
            `blanks`.
    """
    normalizers, pattern = [], f"[^{_BLANK}]+"
    if rule == "words":
        # The library lowers each character alone, Python the last sigma of a word by its place.
        last_sigma = {"Regex": r"(?<=\p{L})Σ(?!\p{L})"}
        normalizers = [
            {"type": "Replace", "pattern": last_sigma, "content": "ς"},
            {"type": "Lowercase"},
        ]
        pattern = _WORD
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": words.index(word),
                "content": word,
                "single_word": True,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for word in (UNKNOWN, EOS)
            if word in words
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Removed",
            "invert": True,
        },
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: token for token, word in enumerate(words)},
            "unk_token": UNKNOWN,
        },
    }


def render_tokenizer_config(words: Sequence[str]) -> Json:
    """Return the content of tokenizer_config.json, by which `AutoTokenizer` loads the folder."""
    special = {"unk_token": UNKNOWN, "eos_token": EOS}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{name: word for name, word in special.items() if word in words},
    }
