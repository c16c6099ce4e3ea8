"""The names of the files, the sizes they may have, and the version of the format."""

from __future__ import annotations

from typing import Any, TypeAlias

from farzi.data.tokenizer import TOKENIZER as TOKENIZER
from farzi.data.tokenizer import TOKENIZER_CONFIG as TOKENIZER_CONFIG

Json: TypeAlias = Any  # what json.loads gives: checked value by value in checks.py

FORMAT_VERSION = 2  # what is written
READABLE_VERSIONS = (1, 2)

TENSORS = "farzi.safetensors"
SETTINGS = "farzi.json"
ITEMS = "items.parquet"
HARD_TOKENS = "data/train.parquet"
CARD = "README.md"
MANIFEST = "MANIFEST.sha256"
LISTED = frozenset({TENSORS, SETTINGS, ITEMS, TOKENIZER, TOKENIZER_CONFIG, HARD_TOKENS, CARD})
FILES = LISTED | {MANIFEST}

SHAPE_NAMES = ("sequences", "length", "rank", "vocabulary")
TOKENS = "tokens"
LEARNED_PREFIX = "learned."
SCALE_SUFFIX = ".scale"

MAX_MANIFEST_BYTES = 1 << 12
MAX_SETTINGS_BYTES = 1 << 22
MAX_HEADER_BYTES = 1 << 16
MAX_BYTES = 1 << 32
MAX_DEPTH = 16
