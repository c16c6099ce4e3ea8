"""tokenizer.json and tokenizer_config.json: farzi's own text reader, as Hugging Face loads it.

`tokenizers` and `transformers` turn a line into the tokens that farzi turns it into: normalised,
lower-cased and cut as `farzi.data.text.tokenise` does by the rule that the artifact's protocol
names, with `<unk>` and `<eos>` known. Nothing is put around a line; farzi itself ends every
sentence with `<eos>`. A text that was cut by a tokenizer of the user's has that one, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from farzi.artifact.contents import Artifact
from farzi.artifact.layout import TOKENIZER, TOKENIZER_CONFIG, Json
from farzi.data.tokenizer import tokenizer_config

__all__ = ["render_json", "render_tokenizer", "tokenizer_files"]

UNKNOWN, EOS = "<unk>", "<eos>"


_BLANK = r"\s\x1c-\x1f"  # what Python calls white space
_WORD = rf"<unk>|(?![{_BLANK}])(?y{{w}})\X"  # what stands between two word boundaries of Unicode
# Consonants that a virama joins are one letter to a reader; the library's own rule is older.
_VIRAMA = r"\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d"
_INDIC = (
    r"\u0915-\u0939\u0958-\u095f\u0978-\u097f"
    r"\u0995-\u09a8\u09aa-\u09b0\u09b2\u09b6-\u09b9\u09dc\u09dd\u09df\u09f0\u09f1"
    r"\u0a95-\u0aa8\u0aaa-\u0ab0\u0ab2\u0ab3\u0ab5-\u0ab9\u0af9"
    r"\u0b15-\u0b28\u0b2a-\u0b30\u0b32\u0b33\u0b35-\u0b39\u0b5c\u0b5d\u0b5f\u0b71"
    r"\u0c15-\u0c28\u0c2a-\u0c39\u0c58-\u0c5a\u0d15-\u0d3a"
)
_CHARACTER = rf"(?y{{g}})(?:\X(?<=[{_VIRAMA}])(?=[{_INDIC}]))*\X"


def render_tokenizer(words: Sequence[str], rule: str) -> Json:
    """Return the content of tokenizer.json.

    Args:
        words: the vocabulary, in token order.
        rule: how a line is cut, as `farzi.data.text.tokenise` knows it; another one is taken for
            `blanks`.
    """
    normalizers: list[Json] = [{"type": "NFC"}]
    pattern = f"[^{_BLANK}]+"
    if rule == "characters":
        blanks = {"Regex": f"[{_BLANK}]+"}
        normalizers += [
            {"type": "Replace", "pattern": blanks, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ]
        pattern = _CHARACTER
    if rule == "words":
        # The library lowers each character alone, Python the last sigma of a word by its place.
        last_sigma = {"Regex": r"(?<=\p{L})Σ(?!\p{L})"}
        normalizers += [
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
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Removed",
            "invert": True,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"} if rule == "characters" else None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: token for token, word in enumerate(words)},
            "unk_token": UNKNOWN,
        },
    }


def tokenizer_files(artifact: Artifact) -> dict[str, bytes]:
    """The content of tokenizer.json and tokenizer_config.json of a text, by name."""
    words = [str(word) for word in artifact.vocabulary]
    if artifact.tokenizer is not None:
        content, special = artifact.tokenizer.content, artifact.tokenizer.special
    else:
        rule = str(artifact.source["protocol"].get("tokens"))
        content = render_json(render_tokenizer(words, rule))
        roles = {"unk_token": UNKNOWN, "eos_token": EOS}
        special = {role: word for role, word in roles.items() if word in words}
    return {TOKENIZER: content, TOKENIZER_CONFIG: render_json(tokenizer_config(special))}


def render_json(value: Json) -> bytes:
    """The bytes of a JSON file, the same for the same value."""
    text = json.dumps(
        value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=dict
    )
    return text.encode() + b"\n"
