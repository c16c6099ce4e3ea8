"""The arguments of `prepare` by name, for functions that pass them on."""

from __future__ import annotations

import os
from typing import Literal, TypedDict

__all__ = ["HowRead"]


class HowRead(TypedDict, total=False):
    """How a source is read: every argument of `farzi.prepare` but the source itself."""

    task: Literal["recommend", "language"]
    data_root: str | os.PathLike[str]
    split: Literal["users", "leave-last-out"]
    split_seed: int
    user_col: str
    item_col: str
    time_col: str
    tie_col: str
    k_core: int
    min_length: int
    repeats: Literal["keep", "first"]
    seen_items: Literal["keep", "leave-out"]
    format: Literal["table", "jsonl", "parquet", "user-lines", "text"]
    delimiter: str
    quote: str
    tokens: Literal["words", "characters", "blanks"]
    vocabulary_size: int
    tokenizer: str | os.PathLike[str]
    engine: Literal["duckdb", "spark"]
