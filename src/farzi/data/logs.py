"""From an event log to `PreparedData`: read, order, split, and say what was found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from farzi.data import splits
from farzi.data.events import Repeats, catalogue, number_events, order_events, select_events
from farzi.data.notes import LargestShares, count_unrankable, held_out_notes, log_notes
from farzi.data.prepared import PreparedData
from farzi.data.repeats import Repetition, count_repetition, decide_seen_items
from farzi.data.sequences import Sequences
from farzi.data.settings import MIN_LENGTH, Engine, Settings
from farzi.data.sources import SeenItems, Source
from farzi.data.vocabulary import Vocabulary
from farzi.errors import DataError, SettingsError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa
    from numpy.typing import NDArray

    from farzi.data.readers import LogReader

__all__ = ["prepare_log"]

_LEAST_MEMORY = 2 << 30  # bytes that DuckDB may use before it goes on with a file
_MEMORY_A_THREAD = 256 << 20
_BATCH = 1 << 18  # events that are taken over together


def prepare_log(
    reader: LogReader,
    known: Source | None,
    settings: Settings,
    report: Callable[[int, int, str], None],
) -> PreparedData:
    """Read a log, order its events by user and time, and split it.

    Args:
        reader: of the log.
        known: the dataset, where it is known by name.
        settings: what was asked for.
        report: called with (stages done, stages in all, what is done now).
    """
    settings.refuse_those_of_texts(reader.label)
    min_length = settings.min_length
    if min_length is None:
        min_length = known.min_length if known else MIN_LENGTH
    repeats = settings.repeats or "keep"
    with _workspace() as (backend, folder):
        report(0, 3, "reading")
        log = reader.read(backend.con)
        report(1, 3, "ordering the events")
        events = select_events(
            _on_engine(backend, folder, settings.engine),
            k_core=settings.k_core,
            min_length=min_length,
            repeats=repeats,
        )
        items = catalogue(events)
        users, sequences, tied = _collect(_in_order(backend, events, items, settings.engine))
        ids = items.order_by("token").to_pyarrow()["item"].to_pylist()
    report(2, 3, "splitting")
    if len(users) < 3:
        raise DataError(
            f"{reader.label}: a split into three needs at least 3 users, got {len(users)} with "
            f"{max(min_length, settings.k_core)} or more events."
        )
    members, (train, validation, test) = _split_users(users, sequences, settings)
    parts = {"train": train, "validation": validation, "test": test}
    for part, sequences_of_part in parts.items():
        if len(sequences_of_part) == 0:
            raise DataError(f"{reader.label}: no user has enough events for the {part} part.")
    found_twice = count_repetition(sequences, tied)
    seen_items, decided_by = _seen_items(settings, known, repeats, found_twice)
    largest = LargestShares.of(users, sequences, ids)
    notes, warnings = log_notes(largest, found_twice, tied, len(users))
    held_out = {}
    in_training = train.token_counts(len(ids)) > 0
    for part in ("validation", "test"):
        targets = parts[part].tokens[parts[part].offsets[1:] - 1]
        unknown = int((~in_training[targets]).sum())
        unrankable = count_unrankable(parts[part], len(ids)) if seen_items == "leave-out" else 0
        held_out[f"{part}_unknown_targets"] = unknown
        held_out[f"{part}_unrankable"] = unrankable
        for kept, added in zip(
            (notes, warnings), held_out_notes(part, parts[part], unknown, unrankable), strict=True
        ):
            kept.extend(added)
    data = PreparedData(
        task="recommend",
        name=reader.name,
        train=train,
        validation=validation,
        test=test,
        vocabulary=Vocabulary(tuple(ids)),
        seen_items=seen_items,
        fingerprint=log.fingerprint,
        split_kind=settings.split,
        split_seed=settings.split_seed if settings.split == "users" else 0,
        train_users_hash=splits.hash_ids(members),
        protocol={
            "split": settings.split,
            "ties": "source order",
            "tied_events": int(tied.sum()),
            "repeats": repeats,
            "seen_items_by": decided_by,
            "repeated_events": found_twice.repeats,
            "exact_duplicates": found_twice.duplicates,
            "k_core": settings.k_core,
            "min_length": min_length,
            "user_col": log.columns.user,
            "item_col": log.columns.item,
            "time_col": log.columns.time,
            **log.settings,
            "as_published": log.as_published,
            "users": len(users),
            "items": len(ids),
            "events": sequences.num_tokens,
            "train_users": len(train),
            "validation_users": len(validation),
            "test_users": len(test),
            "train_events": train.num_tokens,
            **held_out,
        },
        notes=(*log.notes, *notes),
        warnings=tuple(warnings),
    )
    report(3, 3, "done")
    return data


@contextmanager
def _workspace() -> Iterator[tuple[Any, Path]]:
    """An embedded DuckDB behind Ibis, and a folder for what does not fit in memory."""
    import duckdb
    import ibis

    with tempfile.TemporaryDirectory(prefix="farzi-") as folder:
        backend = ibis.duckdb.connect(temp_directory=folder)
        with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets: it has none
            backend.con.execute("SET enable_progress_bar = false")  # among the results
        threads = backend.con.execute("SELECT current_setting('threads')").fetchone()[0]
        limit = max(_LEAST_MEMORY, threads * _MEMORY_A_THREAD)
        backend.con.execute(f"SET memory_limit = '{limit >> 20}MiB'")
        try:
            yield backend, Path(folder)
        finally:
            backend.disconnect()


def _on_engine(backend: Any, folder: Path, engine: Engine) -> ir.Table:
    """The table of events, rows numbered, on the engine that is asked for."""
    import ibis

    if engine == "duckdb":
        return cast("ir.Table", backend.table("events"))
    try:
        from pyspark.sql import SparkSession  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SettingsError("--engine spark needs an extra: pip install 'farzi[spark]'.") from None
    numbered = folder / "events.parquet"
    backend.table("events").to_parquet(numbered)
    spark = ibis.pyspark.connect(SparkSession.builder.getOrCreate())
    return cast("ir.Table", spark.read_parquet(str(numbered)))


def _in_order(
    backend: Any, events: ir.Table, items: ir.Table, engine: Engine
) -> Iterable[pa.RecordBatch]:
    """Batches of (user, token, time), ordered; from DuckDB as they come, never all at once."""
    if engine != "duckdb":
        return cast("list[pa.RecordBatch]", order_events(events, items).to_pyarrow().to_batches())
    backend.create_view("numbered_events", number_events(events, items))
    ordered = "SELECT user, token, time FROM numbered_events ORDER BY user, time, row"
    return cast("Iterable[pa.RecordBatch]", backend.con.sql(ordered).to_arrow_reader(_BATCH))


def _collect(
    ordered: Iterable[pa.RecordBatch],
) -> tuple[list[int | str], Sequences, NDArray[np.bool_]]:
    """Read ordered (user, token, time) rows into one sequence a user.

    Returns:
        the users; their sequences; bool (num_tokens,), whether an event has the time of the one
        before it in its sequence, so that the order of the source decides between the two.
    """
    import pyarrow.compute as pc

    users: list[int | str] = []
    lengths: list[int] = []
    chunks = [np.zeros(0, np.int32)]
    same_time = [np.zeros(0, np.bool_)]
    last_time: Any = None
    for batch in ordered:
        if batch.num_rows == 0:
            continue
        runs = pc.run_end_encode(batch.column("user"))
        ends = runs.run_ends.to_numpy()
        times = batch.column("time").to_numpy()
        tied = np.zeros(len(times), np.bool_)
        np.equal(times[1:], times[:-1], out=tied[1:])
        tied[ends[:-1]] = False
        for user, length in zip(
            runs.values.to_pylist(), np.diff(ends, prepend=0).tolist(), strict=True
        ):
            if users and users[-1] == user:
                lengths[-1] += length
                tied[0] = times[0] == last_time
            else:
                users.append(user)
                lengths.append(length)
        last_time = times[-1]
        chunks.append(batch.column("token").to_numpy().astype(np.int32))
        same_time.append(tied)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return users, Sequences(np.concatenate(chunks), offsets), np.concatenate(same_time)


def _seen_items(
    settings: Settings, known: Source | None, repeats: Repeats, repetition: Repetition
) -> tuple[SeenItems, str]:
    """Whether seen items stay in the ranking, and who says so: one decision for every split."""
    if settings.seen_items is not None:
        return settings.seen_items, "asked"
    if repeats == "first":
        return "leave-out", "repeats"
    if known is not None:
        return known.seen_items, "source"
    return decide_seen_items(repetition), "rule"


def _split_users(
    users: list[int | str], sequences: Sequences, settings: Settings
) -> tuple[list[int | str], tuple[Sequences, Sequences, Sequences]]:
    """The ids of the training users, and the three parts."""
    if settings.split == "leave-last-out":
        in_train = np.flatnonzero(sequences.lengths >= splits.LEAVE_LAST_OUT_MIN_LENGTH)
        return [users[i] for i in in_train], splits.leave_last_out(sequences)
    places = splits.three_ways(len(users), settings.split_seed, what="users")
    train, validation, test = (sequences.take(part) for part in places)
    return [users[i] for i in places.train], (train, validation, test)
