"""From an event log to `PreparedData`: read, order, split, and say what was found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from farzi.data import splits
from farzi.data.events import Repeats, catalogue, number_events, order_of, select_events
from farzi.data.interrupts import interrupted_by_signals
from farzi.data.notes import LargestShares, count_unrankable, held_out_notes, log_notes
from farzi.data.prepared import PreparedData
from farzi.data.repeats import Repetition, count_repetition, decide_seen_items
from farzi.data.sequences import Sequences
from farzi.data.settings import MIN_LENGTH, Settings
from farzi.data.sources import SeenItems, Source
from farzi.data.vocabulary import Vocabulary
from farzi.errors import DataError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa
    from numpy.typing import NDArray

    from farzi.data.readers import Log, LogReader

__all__ = [
    "HELD_OUT",
    "Found",
    "HeldOut",
    "Rules",
    "describe",
    "prepare_log",
    "refuse_empty_part",
]

HELD_OUT = ("validation", "test")

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
    rules = Rules.of(settings, known)
    with _workspace() as backend:
        report(0, 3, "reading")
        log = reader.read(backend.con)
        report(1, 3, "ordering the events")
        events = rules.select(backend.table("events"))
        items = catalogue(events)
        users, sequences, tied = _collect(_in_order(backend, events, items))
        ids = items.order_by("token").to_pyarrow()["item"].to_pylist()
    report(2, 3, "splitting")
    rules.refuse_too_few_users(reader.label, len(users))
    members, (train, validation, test) = _split_users(users, sequences, settings)
    parts = {"train": train, "validation": validation, "test": test}
    for part, sequences_of_part in parts.items():
        refuse_empty_part(reader.label, part, len(sequences_of_part))
    repetition = count_repetition(sequences, tied)
    seen_items, _ = rules.seen_items(repetition)
    held_out = {}
    in_training = train.token_counts(len(ids)) > 0
    for part in HELD_OUT:
        targets = parts[part].tokens[parts[part].offsets[1:] - 1]
        unknown = int((~in_training[targets]).sum())
        unrankable = count_unrankable(parts[part], len(ids)) if seen_items == "leave-out" else 0
        held_out[part] = HeldOut(len(parts[part]), unknown, unrankable)
    found = Found(
        users=len(users),
        items=len(ids),
        train_users=len(train),
        train_events=train.num_tokens,
        train_users_hash=splits.hash_ids(members),
        tied=int(tied.sum()),
        repetition=repetition,
        largest=LargestShares.of(users, sequences, ids),
        held_out=held_out,
    )
    data = PreparedData(
        train=train,
        validation=validation,
        test=test,
        vocabulary=Vocabulary(tuple(ids)),
        **describe(reader.name, log, rules, found),
    )
    report(3, 3, "done")
    return data


@dataclass(frozen=True)
class Rules:
    """What a log is prepared by: the settings, and what a known dataset says where they are silent.

    Args:
        settings: what was asked for.
        known: the dataset, where it is known by name.
        min_length: users with fewer events are dropped.
        repeats: whether repeated events stay.
    """

    settings: Settings
    known: Source | None
    min_length: int
    repeats: Repeats

    @classmethod
    def of(cls, settings: Settings, known: Source | None) -> Rules:
        """The rules of one log."""
        min_length = settings.min_length
        if min_length is None:
            min_length = known.min_length if known else MIN_LENGTH
        return cls(settings, known, min_length, settings.repeats or "keep")

    def select(
        self, events: ir.Table, keep: Callable[[ir.Table], ir.Table] | None = None
    ) -> ir.Table:
        """The events that stay; `keep` as `core` has it."""
        return select_events(
            events,
            k_core=self.settings.k_core,
            min_length=self.min_length,
            repeats=self.repeats,
            keep=keep,
        )

    def refuse_too_few_users(self, label: str, users: int) -> None:
        """Refuse what cannot be split.

        Raises:
            DataError: there are fewer than three users.
        """
        if users < 3:
            raise DataError(
                f"{label}: a split into three needs at least 3 users, got {users} with "
                f"{max(self.min_length, self.settings.k_core)} or more events."
            )

    def seen_items(self, repetition: Repetition) -> tuple[SeenItems, str]:
        """Whether seen items stay in the ranking, and who says so: the same for every split."""
        if self.settings.seen_items is not None:
            return self.settings.seen_items, "asked"
        if self.repeats == "first":
            return "leave-out", "repeats"
        if self.known is not None:
            return self.known.seen_items, "source"
        return decide_seen_items(repetition), "rule"


def refuse_empty_part(label: str, part: str, sequences: int) -> None:
    """Refuse a split that leaves a part empty.

    Raises:
        DataError: it names the part.
    """
    if sequences == 0:
        raise DataError(f"{label}: no user has enough events for the {part} part.")


@dataclass(frozen=True)
class HeldOut:
    """What was counted in the validation or the test part.

    Args:
        users: how many it has.
        unknown_targets: how many of their targets no training user ever had.
        unrankable: how many users have nothing left to rank their target with.
    """

    users: int
    unknown_targets: int
    unrankable: int


@dataclass(frozen=True)
class Found:
    """What was counted in a log that is ordered and split, by whichever engine.

    Args:
        users: of all parts.
        items: of the catalogue.
        train_users: sequences of the training part.
        train_events: events of it.
        train_users_hash: `sha256:...` of the sorted ids of the training users.
        tied: events that have the time of the user's one before.
        repetition: repeats and exact duplicates.
        largest: the largest user and item.
        held_out: what was counted in `validation` and `test`.
    """

    users: int
    items: int
    train_users: int
    train_events: int
    train_users_hash: str
    tied: int
    repetition: Repetition
    largest: LargestShares
    held_out: Mapping[str, HeldOut]


def describe(name: str, log: Log, rules: Rules, found: Found) -> dict[str, Any]:
    """The fields of `PreparedData` that are neither sequences nor the vocabulary.

    Args:
        name: of the source.
        log: how it was read.
        rules: what it was prepared by.
        found: what was counted in it.
    """
    settings = rules.settings
    seen_items, decided_by = rules.seen_items(found.repetition)
    notes, warnings = log_notes(
        found.largest, found.repetition, found.tied, found.users, log.columns.tie
    )
    held_out = {}
    for part, counted in found.held_out.items():
        unknown, unrankable = counted.unknown_targets, counted.unrankable
        held_out[f"{part}_unknown_targets"] = unknown
        held_out[f"{part}_unrankable"] = unrankable
        noted, warned = held_out_notes(part, counted.users, unknown, unrankable)
        notes += noted
        warnings += warned
    by_column = {} if log.columns.tie is None else {"tie_col": log.columns.tie}
    return {
        "task": "recommend",
        "name": name,
        "seen_items": seen_items,
        "fingerprint": log.fingerprint,
        "split_kind": settings.split,
        "split_seed": settings.split_seed if settings.split == "users" else 0,
        "train_users_hash": found.train_users_hash,
        "protocol": {
            "split": settings.split,
            "ties": "column" if by_column else "source order",
            "tied_events": found.tied,
            "repeats": rules.repeats,
            "seen_items_by": decided_by,
            "repeated_events": found.repetition.repeats,
            "exact_duplicates": found.repetition.duplicates,
            "k_core": settings.k_core,
            "min_length": rules.min_length,
            "user_col": log.columns.user,
            "item_col": log.columns.item,
            "time_col": log.columns.time,
            **by_column,
            **log.settings,
            "as_published": log.as_published,
            "users": found.users,
            "items": found.items,
            "events": found.repetition.events,
            "train_users": found.train_users,
            **{f"{part}_users": counted.users for part, counted in found.held_out.items()},
            "train_events": found.train_events,
            **held_out,
        },
        "notes": (*log.notes, *notes),
        "warnings": tuple(warnings),
    }


@contextmanager
def _workspace() -> Iterator[Any]:
    """An embedded DuckDB behind Ibis, with a folder for what does not fit in memory."""
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
            with interrupted_by_signals(backend.con.interrupt):
                yield backend
        finally:
            backend.disconnect()


def _in_order(backend: Any, events: ir.Table, items: ir.Table) -> Iterable[pa.RecordBatch]:
    """Batches of (user, token, time), ordered; as they come, never all at once."""
    backend.create_view("numbered_events", number_events(events, items))
    order = ", ".join(["user", *order_of(events)])
    ordered = f"SELECT user, token, time FROM numbered_events ORDER BY {order}"
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
