"""Token ids and the original ids they stand for, both ways."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farzi.data.columns import shorten
from farzi.data.files import check_regular, read_json, replacing
from farzi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["EOS", "UNKNOWN", "Vocabulary", "end_of_sentence"]

UNKNOWN = "<unk>"
EOS = "<eos>"

_MAX_BYTES = 1 << 31


@dataclass(frozen=True)
class Vocabulary:
    """The original id of every token; the token is its place in the list.

    The ids are all `int` or all `str`, each once, so that every token can be turned back.
    A text vocabulary holds `<unk>`, which stands for every other word.

    Args:
        ids: original ids in token order, not empty.

    Raises:
        ValueError: `ids` is empty, mixed or repeats an id.

    Example:
        >>> from farzi.data.vocabulary import Vocabulary
        >>> catalogue = Vocabulary(("B0001", "B0007"))
        >>> catalogue.encode(["B0007", "B0001"]).tolist(), catalogue.decode([1])
        ([1, 0], ['B0007'])
    """

    ids: tuple[int | str, ...]
    _tokens: dict[int | str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        if {type(original) for original in self.ids} not in ({int}, {str}):
            raise ValueError("`ids` must be all int or all str, and not empty.")
        tokens: dict[int | str, int] = {original: i for i, original in enumerate(self.ids)}
        if len(tokens) != len(self.ids):
            raise ValueError("`ids` must not repeat an id.")
        object.__setattr__(self, "_tokens", tokens)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, original: object) -> bool:
        return original in self._tokens

    def encode(self, originals: Iterable[int | str]) -> NDArray[np.int32]:
        """Tokens of original ids, int32; a word that is not known becomes `<unk>`.

        Raises:
            DataError: an id is not known and the vocabulary holds no `<unk>`.
        """
        unknown = self._tokens.get(UNKNOWN, -1)
        originals = list(originals)
        tokens = np.array([self._tokens.get(o, unknown) for o in originals], dtype=np.int32)
        if len(tokens) and tokens.min() < 0:
            stranger = originals[int(tokens.argmin())]
            raise DataError(f"{stranger!r} is not among the {self.size:,} known ids.")
        return tokens

    def decode(self, tokens: ArrayLike) -> list[int | str]:
        """Original ids of tokens."""
        chosen = np.asarray(tokens, dtype=np.int64).reshape(-1)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < self.size:
            raise ValueError(f"`tokens` must be from 0 to {self.size - 1}.")
        return [self.ids[token] for token in chosen]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON list, or a Parquet table (`token`, `id`) where PATH ends in `.parquet`."""
        file = Path(path)
        with replacing(file) as draft:
            if file.suffix == ".parquet":
                _write_parquet(draft, self.ids)
            else:
                draft.write_text(json.dumps(list(self.ids)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or is not what `save` writes.
        """
        file = Path(path)
        try:
            if file.suffix == ".parquet":
                check_regular(file)
                ids = _read_parquet(file)
            else:
                ids = read_json(file, _MAX_BYTES)
                if not isinstance(ids, list):
                    raise ValueError("not a list of ids")
            return cls(tuple(ids))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{file}: cannot be read ({shorten(str(error))}).") from None


def end_of_sentence(vocabulary: Vocabulary, protocol: Mapping[str, Any]) -> str:
    """The word that ends every sentence of a text: `<eos>`, or a tokenizer's own.

    Raises:
        DataError: the vocabulary does not have it.
    """
    eos = str(protocol.get("eos", EOS))
    if eos not in vocabulary:
        raise DataError(f"{eos!r} should end every sentence, and is not in the vocabulary.")
    return eos


def _write_parquet(path: Path, ids: Sequence[int | str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.int64() if isinstance(ids[0], int) else pa.string()
    tokens = pa.array(np.arange(len(ids), dtype=np.int32))
    pq.write_table(pa.table({"token": tokens, "id": pa.array(ids, kind)}), path)


def _read_parquet(path: Path) -> list[int | str]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if set(table.column_names) != {"token", "id"}:
        raise ValueError("not a table of `token` and `id`")
    if not np.array_equal(table["token"].to_numpy(), np.arange(len(table))):
        raise ValueError("the tokens do not count from 0")
    ids: list[int | str] = table["id"].to_pylist()
    return ids
