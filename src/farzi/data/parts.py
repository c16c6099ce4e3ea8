"""A prepared log in parts, as a cluster writes it; read with numpy and pyarrow, without Spark.

The folder holds `train`, `validation` and `test` (Parquet parts of `place`, int64: the user's place
in the order of the ids, rising; and `token`, int32: one event a row, in order), `items` (Parquet
parts of `token` and `item`) and, written last, `farzi-parts`: all the rest in one line of JSON.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from farzi.data.prepared import PARTS, PreparedData, check_record
from farzi.data.sequences import Sequences
from farzi.data.vocabulary import Vocabulary
from farzi.errors import DataError

__all__ = ["ITEMS", "PARTS_FORMAT", "PARTS_RECORD", "is_cut_short", "is_in_parts", "load_parts"]

PARTS_RECORD = "farzi-parts"
PARTS_FORMAT = "farzi parts 1"
ITEMS = "items"

_BATCH = 1 << 20  # events read at a time


def is_in_parts(folder: Path) -> bool:
    """Whether a folder holds a prepared log in parts, written to its end."""
    return (folder / PARTS_RECORD).is_dir()


def is_cut_short(folder: Path) -> bool:
    """Whether a folder is what a cluster that was stopped had written of a log in parts."""
    names = {*PARTS, ITEMS}
    entries = list(folder.iterdir())
    if not entries or any(entry.name not in names or not entry.is_dir() for entry in entries):
        return False
    if any((entry / "_temporary").is_dir() for entry in entries):
        return True
    import pyarrow as pa
    import pyarrow.parquet as pq

    for entry in entries:
        expected = ["token", "item"] if entry.name == ITEMS else ["place", "token"]
        for file in entry.glob("part-*.parquet"):
            try:
                return list(pq.read_schema(file).names) == expected
            except (OSError, pa.ArrowException):
                return False
    return False


def load_parts(folder: Path) -> PreparedData:
    """Join the parts, in files that are removed with the value that is returned.

    Args:
        folder: on this machine.

    Raises:
        DataError: the parts are not all there, or are not what a cluster wrote.

    Cost:
        Four bytes an event in the folder of temporary files (`TMPDIR`), eight bytes a user and the
        catalogue in memory.
    """
    record = _read_record(folder / PARTS_RECORD)
    counts = record.pop("counts")
    fields = check_record(folder / PARTS_RECORD, record)
    ids = _read_items(folder / ITEMS, counts[ITEMS])
    with tempfile.TemporaryDirectory(prefix="farzi-", ignore_cleanup_errors=True) as scratch:
        # Where files can be removed while they are mapped, nothing stays behind.
        joined: dict[str, Any] = {
            part: _join(folder / part, counts[part], len(ids), Path(scratch, part))
            for part in PARTS
        }
    return PreparedData(vocabulary=Vocabulary(tuple(ids)), **joined, **fields)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        text = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("part-*")))
        record = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(record, dict) or record.pop("format", None) != PARTS_FORMAT:
        raise DataError(f"{folder}: not of format {PARTS_FORMAT!r}; prepare the source again.")
    counts = record.get("counts")
    if not (
        isinstance(counts, dict)
        and all(_are_counts(counts.get(part), 2) for part in PARTS)
        and _are_counts([counts.get(ITEMS)], 1)
    ):
        raise DataError(f"{folder}: the value of 'counts' is wrong.")
    return record


def _are_counts(values: object, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(value) is int and value >= 0 for value in values)
    )


def _read_items(folder: Path, count: int) -> list[int | str]:
    """The ids of the items in the order of their tokens."""
    tokens, ids = [np.zeros(0, np.int64)], []
    for batch in _batches(folder, {"token": "int32", "item": "id"}):
        tokens.append(batch.column("token").to_numpy().astype(np.int64))
        ids += batch.column("item").to_pylist()
    order = np.concatenate(tokens)
    if len(order) != count or not np.array_equal(np.sort(order), np.arange(count)):
        raise DataError(f"{folder}: {len(order):,} items, where {count:,} were written.")
    return [ids[place] for place in np.argsort(order)]


def _join(folder: Path, counts: list[int], items: int, stem: Path) -> Sequences:
    """Write the parts of one split as two arrays, and map them."""
    sequences, events = counts
    tokens = np.lib.format.open_memmap(
        f"{stem}.tokens.npy", mode="w+", dtype=np.int32, shape=(events,)
    )
    offsets = np.zeros(sequences + 1, np.int64)
    users = read = 0
    last = -1
    for batch in _batches(folder, {"place": "int64", "token": "int32"}):
        places = batch.column("place").to_numpy()
        found = batch.column("token").to_numpy()
        steps = np.diff(places, prepend=last)
        starts = np.flatnonzero(steps)
        if (steps < 0).any() or users + len(starts) > sequences or read + len(places) > events:
            raise DataError(f"{folder}: its parts are not those that were written.")
        if len(found) and not 0 <= found.min() <= found.max() < items:
            raise DataError(f"{folder}: a token is outside the vocabulary of {items:,}.")
        offsets[users : users + len(starts)] = read + starts
        tokens[read : read + len(found)] = found
        users, read, last = users + len(starts), read + len(places), int(places[-1])
    if (users, read) != (sequences, events):
        raise DataError(
            f"{folder}: {users:,} sequences of {read:,} tokens, where {sequences:,} of {events:,} "
            "were written; a part is missing."
        )
    offsets[users] = read
    tokens.flush()
    del tokens
    np.save(f"{stem}.offsets.npy", offsets, allow_pickle=False)
    return Sequences.load(stem)


def _batches(folder: Path, columns: dict[str, str]) -> Iterator[Any]:
    """Batches of a folder's Parquet parts, one after the other, without those that are empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"int32": [pa.int32()], "int64": [pa.int64()], "id": [pa.int64(), pa.string()]}
    for file in sorted(folder.glob("part-*.parquet")):
        try:
            with pq.ParquetFile(file) as part:
                schema = part.schema_arrow
                if schema.names != list(columns) or any(
                    schema.field(name).type not in kinds[kind] for name, kind in columns.items()
                ):
                    raise DataError(f"{file}: its columns are not {', '.join(columns)}.")
                for batch in part.iter_batches(_BATCH):
                    if batch.num_rows == 0:
                        continue
                    if any(column.null_count for column in batch.columns):
                        raise DataError(f"{file}: a value is missing.")
                    yield batch
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from None
