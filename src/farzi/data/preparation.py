"""`prepare`: from the name or path of a source to `PreparedData`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from farzi.data import splits, stdlib, tables, text
from farzi.data.events import Repeats, catalogue, order_events, select_events
from farzi.data.prepared import PreparedData
from farzi.data.repeats import Repetition, count_repetition, decide_seen_items
from farzi.data.sequences import Sequences
from farzi.data.sources import Origin, SeenItems, Source, Task, find, resolve
from farzi.data.vocabulary import Vocabulary
from farzi.errors import DataError, SettingsError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

__all__ = ["DEFAULT_VOCABULARY_SIZE", "Engine", "Split", "arguments_of", "prepare"]

Engine = Literal["duckdb", "spark"]
Split = Literal["users", "leave-last-out"]
Progress = Callable[[int, int, str], None]

DEFAULT_VOCABULARY_SIZE = 2000

_MIN_LENGTH = 2  # a target needs a context
_TEXT_SUFFIXES = {".txt", ".text", ".md", ".rst"}


@dataclass(frozen=True)
class _Settings:
    """What `prepare` was asked for, checked."""

    split: Split
    split_seed: int
    k_core: int
    min_length: int | None
    repeats: Repeats | None
    seen_items: SeenItems | None
    columns: tables.Columns
    vocabulary_size: int | None
    engine: Engine


def prepare(
    source: str | os.PathLike[str],
    *,
    task: Task | None = None,
    data_root: str | os.PathLike[str] | None = None,
    split: Split = "users",
    split_seed: int = 0,
    k_core: int = 0,
    min_length: int | None = None,
    repeats: Repeats | None = None,
    seen_items: SeenItems | None = None,
    user_col: str | None = None,
    item_col: str | None = None,
    time_col: str | None = None,
    vocabulary_size: int | None = None,
    engine: Engine = "duckdb",
    progress: Progress | None = None,
) -> PreparedData:
    r"""Turn an event log or a text into token sequences, split for training and testing.

    Args:
        source: a name in `SOURCES`; a path to Parquet, CSV, TSV, JSON lines, RecBole `.inter` or
            plain text, gzip too; or a folder that `PreparedData.save` wrote.
        task: `recommend` or `language`; None: what the source is.
        data_root: folder of the known datasets; None: `FARZI_DATA_ROOT`.
        split: `users` (80/10/10, no user in two parts) or `leave-last-out`. A text is split by
            its own files where it has them, else 80/10/10 by lines or documents.
        split_seed: seed of an 80/10/10 split.
        k_core: drop users and items with fewer events until none is left to drop; 0: off.
        min_length: drop users with fewer events; None: the source's own, 2 where it has none.
        repeats: `keep` them, or only the `first` event of a user with an item; None: `keep`.
        seen_items: whether the items a user already had stay in the ranking: `keep` or
            `leave-out`; None: what the source says, else `keep` where more than 5 % of the whole
            log's events repeat an item. The same for every split seed.
        user_col: column of the user; None: the first usual name. A number counts columns from 1
            in a file without a header line. Likewise the next two.
        item_col: column of the item.
        time_col: column of the time; `row`: the rows are in time order.
        vocabulary_size: tokens of a text, `<unk>` and `<eos>` included, chosen on the training
            part; 0: every word; None: 2,000.
        engine: what prepares a log: `duckdb`, embedded, or `spark`.
        progress: called with (stages done, stages in all, what is done now).

    Returns:
        The three parts, the vocabulary and the protocol.

    Raises:
        DataError: the data are not there or cannot be used; one line says where.
        SettingsError: a setting does not fit the source.
        ValueError: an argument is out of range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from farzi.data import prepare
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Path(folder, "log.csv")
        ...     rows = [f"u{n % 10},film{n % 7},{n}" for n in range(100)]
        ...     _ = log.write_text("user,item,time\n" + "\n".join(rows))
        ...     data = prepare(log)
        >>> len(data.train), len(data.validation), len(data.test), data.vocabulary.size
        (8, 1, 1, 7)
        >>> data.vocabulary.decode(data.test[0][-1:])
        ['film0']
    """
    settings = _Settings(
        split=split,
        split_seed=split_seed,
        k_core=k_core,
        min_length=min_length,
        repeats=repeats,
        seen_items=seen_items,
        columns=tables.Columns(user_col, item_col, time_col),
        vocabulary_size=vocabulary_size,
        engine=engine,
    )
    _check(settings, task)
    found = resolve(os.fspath(source))
    report = progress or _no_progress
    if isinstance(found, Path) and found.is_dir():
        data = _load_prepared(found, settings, task)
    elif _task_of(found, task) == "language":
        data = _prepare_text(found, settings, data_root, report)
    else:
        data = _prepare_log(found, settings, data_root, report)
    return replace(data, origin=Origin.of(source, data_root))


_REMEMBERED = {
    "recommend": ("repeats", "k_core", "min_length", "user_col", "item_col", "time_col"),
    "language": ("vocabulary_size",),
}


def arguments_of(task: Task, seen_items: SeenItems, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments with which `prepare` reads the same source in the same way again.

    Args:
        task: of the prepared data.
        seen_items: likewise.
        protocol: likewise; a run and an artifact carry it.

    Returns:
        `task` and the settings that the protocol remembers. The source itself, the split and its
        seed are not among them.

    Example:
        >>> from farzi.data.preparation import arguments_of
        >>> arguments_of("language", "keep", {"vocabulary_size": 9})
        {'task': 'language', 'vocabulary_size': 9}
    """
    kept = {name: protocol[name] for name in _REMEMBERED[task] if name in protocol}
    asked = protocol.get("seen_items_by") == "asked"
    return {"task": task, **kept, **({"seen_items": seen_items} if asked else {})}


# ------------------------------------------------------------------------------------- event logs


@dataclass(frozen=True)
class _Log:
    """Where an event log came from; its events are in the engine."""

    name: str
    fingerprint: str
    min_length: int
    seen_items: SeenItems | None
    as_published: bool | None
    columns: tables.Columns = field(default_factory=tables.Columns)


def _prepare_log(
    found: Source | Path,
    settings: _Settings,
    data_root: str | os.PathLike[str] | None,
    report: Progress,
) -> PreparedData:
    if settings.vocabulary_size is not None:
        raise SettingsError(f"--vocabulary-size is for texts, and {_label(found)} is an event log.")
    with _workspace() as (backend, folder):
        report(0, 3, "reading")
        log = _read_log(backend.con, found, settings.columns, data_root)
        report(1, 3, "ordering the events")
        min_length = log.min_length if settings.min_length is None else settings.min_length
        repeats = settings.repeats or "keep"
        events = select_events(
            _on_engine(backend, folder, settings.engine),
            k_core=settings.k_core,
            min_length=min_length,
            repeats=repeats,
        )
        items = catalogue(events)
        users, sequences, tied = _collect(order_events(events, items))
        ids = items.order_by("token").to_pyarrow()["item"].to_pylist()
    report(2, 3, "splitting")
    if len(users) < 3:
        raise DataError(
            f"{_label(found)}: a split into three needs at least 3 users, got {len(users)} with "
            f"{max(min_length, settings.k_core)} or more events."
        )
    members, parts = _split_users(users, sequences, settings)
    train, validation, test = parts
    for part, sequences_of_part in zip(("train", "validation", "test"), parts, strict=True):
        if len(sequences_of_part) == 0:
            raise DataError(f"{_label(found)}: no user has enough events for the {part} part.")
    found_twice = count_repetition(sequences, tied)
    seen_items, decided_by = _seen_items(settings, log, repeats, found_twice)
    data = PreparedData(
        task="recommend",
        name=log.name,
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
            "repeats": repeats,
            "seen_items_by": decided_by,
            "repeated_events": found_twice.repeats,
            "exact_duplicates": found_twice.duplicates,
            "k_core": settings.k_core,
            "min_length": min_length,
            "user_col": log.columns.user,
            "item_col": log.columns.item,
            "time_col": log.columns.time,
            "as_published": log.as_published,
            "users": len(users),
            "items": len(ids),
            "events": sequences.num_tokens,
            "train_users": len(train),
            "validation_users": len(validation),
            "test_users": len(test),
            "train_events": train.num_tokens,
        },
    )
    report(3, 3, "done")
    return data


@contextmanager
def _workspace() -> Iterator[tuple[Any, Path]]:
    """An embedded DuckDB behind Ibis, and a folder for what does not fit in memory."""
    import ibis

    with tempfile.TemporaryDirectory(prefix="farzi-") as folder:
        backend = ibis.duckdb.connect(temp_directory=folder)
        try:
            yield backend, Path(folder)
        finally:
            backend.disconnect()


def _read_log(
    connection: Any,
    found: Source | Path,
    columns: tables.Columns,
    data_root: str | os.PathLike[str] | None,
) -> _Log:
    if isinstance(found, Path):
        layout = tables.layout_of(found, columns)
        read = tables.read_events(connection, found, layout, columns)
        return _Log(_stem(found), tables.hash_content([found]), _MIN_LENGTH, None, None, read)
    if columns != tables.Columns():
        raise SettingsError(f"{found.name}: its columns are known; leave out --user-col and such.")
    if found.embedded:
        calls = stdlib.read_calls()
        tables.register_events(connection, calls)
        fingerprint, published = stdlib.hash_records(calls), None
    else:
        copy, paths = find(found, data_root)
        layout = copy.layout or tables.layout_of(paths[0], copy.columns)
        tables.read_events(connection, paths[0], layout, copy.columns)
        fingerprint = tables.hash_content(paths)
        published = fingerprint == f"sha256:{copy.sha256[0]}" if copy.sha256 else None
    return _Log(found.name, fingerprint, found.min_length, found.seen_items, published)


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


def _collect(
    ordered: ir.Table,
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
    for batch in ordered.to_pyarrow().to_batches():
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
    settings: _Settings, log: _Log, repeats: Repeats, repetition: Repetition
) -> tuple[SeenItems, str]:
    """Whether seen items stay in the ranking, and who says so: one decision for every split."""
    if settings.seen_items is not None:
        return settings.seen_items, "asked"
    if repeats == "first":
        return "leave-out", "repeats"
    if log.seen_items is not None:
        return log.seen_items, "source"
    return decide_seen_items(repetition), "rule"


def _split_users(
    users: list[int | str], sequences: Sequences, settings: _Settings
) -> tuple[list[int | str], tuple[Sequences, Sequences, Sequences]]:
    """The ids of the training users, and the three parts."""
    if settings.split == "leave-last-out":
        in_train = np.flatnonzero(sequences.lengths >= splits.LEAVE_LAST_OUT_MIN_LENGTH)
        return [users[i] for i in in_train], splits.leave_last_out(sequences)
    places = splits.three_ways(len(users), settings.split_seed, what="users")
    train, validation, test = (sequences.take(part) for part in places)
    return [users[i] for i in places.train], (train, validation, test)


# ------------------------------------------------------------------------------------------ texts


@dataclass(frozen=True)
class _Text:
    """A text as sentences of words, in three parts, with the ids of its training members."""

    name: str
    fingerprint: str
    split_kind: splits.SplitKind
    tokens: text.Tokens
    parts: tuple[list[list[str]], list[list[str]], list[list[str]]]
    train_ids: list[int | str]
    as_published: bool | None = None


def _prepare_text(
    found: Source | Path,
    settings: _Settings,
    data_root: str | os.PathLike[str] | None,
    report: Progress,
) -> PreparedData:
    _refuse_log_settings(found, settings)
    size = settings.vocabulary_size
    size = DEFAULT_VOCABULARY_SIZE if size is None else size
    report(0, 2, "reading")
    read = _read_text(found, settings.split_seed, data_root)
    report(1, 2, "choosing words")
    vocabulary = text.choose_words(read.parts[0], size)
    train, validation, test = (text.encode_sentences(part, vocabulary) for part in read.parts)
    report(2, 2, "done")
    return PreparedData(
        task="language",
        name=read.name,
        train=train,
        validation=validation,
        test=test,
        vocabulary=vocabulary,
        seen_items="keep",
        fingerprint=read.fingerprint,
        split_kind=read.split_kind,
        split_seed=0 if read.split_kind == "official" else settings.split_seed,
        train_users_hash=splits.hash_ids(read.train_ids),
        protocol={
            "split": read.split_kind,
            "tokens": read.tokens,
            "vocabulary_size": size,
            "as_published": read.as_published,
            "words": vocabulary.size,
            "train_sentences": len(train),
            "validation_sentences": len(validation),
            "test_sentences": len(test),
            "train_tokens": train.num_tokens,
            "validation_tokens": validation.num_tokens,
            "test_tokens": test.num_tokens,
        },
    )


def _read_text(
    found: Source | Path, split_seed: int, data_root: str | os.PathLike[str] | None
) -> _Text:
    if isinstance(found, Path):
        members = [(number, [line]) for number, line in enumerate(text.read_lines(found))]
        fingerprint = tables.hash_content([found])
        return _split_text(found, members, "lines", fingerprint, split_seed)
    if found.embedded:
        documents = stdlib.read_documents()
        members_by_name = [(name, text.split_sentences(body)) for name, body in sorted(documents)]
        fingerprint = stdlib.hash_records(documents)
        return _split_text(found, members_by_name, "documents", fingerprint, split_seed)
    copy, paths = find(found, data_root)
    lines = [text.read_lines(path) for path in paths]
    train, validation, test = ([text.tokenise(row, "blanks") for row in rows] for rows in lines)
    fingerprint = tables.hash_content(paths)
    return _Text(
        name=found.name,
        fingerprint=fingerprint,
        split_kind="official",
        tokens="blanks",
        parts=(train, validation, test),
        train_ids=list(range(len(train))),
        as_published=fingerprint == tables.join_digests(copy.sha256),
    )


def _split_text(
    found: Source | Path,
    members: Any,
    kind: Literal["lines", "documents"],
    fingerprint: str,
    split_seed: int,
) -> _Text:
    """Split members, each an id and its sentences, 80/10/10."""
    try:
        places = splits.three_ways(len(members), split_seed, what=kind)
    except DataError as error:
        raise DataError(f"{_label(found)}: {error}") from None

    def sentences(part: Any) -> list[list[str]]:
        rows = (text.tokenise(line, "words") for place in part for line in members[place][1])
        return [row for row in rows if row]

    return _Text(
        name=_stem(found) if isinstance(found, Path) else found.name,
        fingerprint=fingerprint,
        split_kind=kind,
        tokens="words",
        parts=(sentences(places.train), sentences(places.validation), sentences(places.test)),
        train_ids=[members[place][0] for place in places.train],
    )


# --------------------------------------------------------------------------------------- settings


def _check(settings: _Settings, task: Task | None) -> None:
    choices = {
        "task": (task, (None, *get_args(Task))),
        "split": (settings.split, get_args(Split)),
        "repeats": (settings.repeats, (None, *get_args(Repeats))),
        "seen_items": (settings.seen_items, (None, *get_args(SeenItems))),
        "engine": (settings.engine, get_args(Engine)),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            listed = ", ".join(repr(choice) for choice in allowed if choice is not None)
            raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
    if not _is_count(settings.k_core, 0):
        raise ValueError(f"`k_core` must be an int >= 0, got {settings.k_core}.")
    if settings.min_length is not None and not _is_count(settings.min_length, _MIN_LENGTH):
        raise ValueError(f"`min_length` must be an int >= 2, got {settings.min_length}.")
    size = settings.vocabulary_size
    if size not in {None, 0} and not _is_count(size, 3):
        raise ValueError(f"`vocabulary_size` must be 0 or an int >= 3, got {size}.")
    splits.check_seed(settings.split_seed)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refuse_log_settings(found: Source | Path, settings: _Settings) -> None:
    given = {
        "--split": settings.split != "users",
        "--k-core": settings.k_core != 0,
        "--min-length": settings.min_length is not None,
        "--repeats": settings.repeats is not None,
        "--seen-items": settings.seen_items is not None,
        "--user-col": settings.columns.user is not None,
        "--item-col": settings.columns.item is not None,
        "--time-col": settings.columns.time is not None,
        "--engine": settings.engine != "duckdb",
    }
    for flag, is_given in given.items():
        if is_given:
            raise SettingsError(f"{flag} is for event logs, and {_label(found)} is a text.")


def _task_of(found: Source | Path, task: Task | None) -> Task:
    if isinstance(found, Path):
        return task or ("language" if tables.suffix_of(found) in _TEXT_SUFFIXES else "recommend")
    if task is not None and task != found.task:
        raise SettingsError(f"--task {task}: {found.name} is for {found.task}.")
    return found.task


def _load_prepared(folder: Path, settings: _Settings, task: Task | None) -> PreparedData:
    """A folder prepared before, if it is what is asked for."""
    data = PreparedData.load(folder)
    if task is not None and task != data.task:
        raise SettingsError(f"--task {task}: {folder} was prepared for {data.task}.")
    by_seed = data.split_kind not in {"leave-last-out", "official"}
    if by_seed and data.split_seed != settings.split_seed:
        raise SettingsError(
            f"--split-seed {settings.split_seed}: {folder} was prepared with seed "
            f"{data.split_seed}; ask for that, or prepare the source again."
        )
    if settings.split == "leave-last-out" and data.split_kind != "leave-last-out":
        raise SettingsError(f"--split leave-last-out: {folder} was prepared by {data.split_kind}.")
    if data.task == "language":
        if settings.seen_items is not None:
            raise SettingsError(f"--seen-items is for event logs, and {folder} is a text.")
        return data
    if settings.repeats is not None and settings.repeats != data.protocol["repeats"]:
        raise SettingsError(
            f"--repeats {settings.repeats}: {folder} was prepared with {data.protocol['repeats']}; "
            "prepare the source again."
        )
    if settings.seen_items is None or settings.seen_items == data.seen_items:
        return data
    protocol = {**data.protocol, "seen_items_by": "asked"}
    return replace(data, seen_items=settings.seen_items, protocol=protocol)


def _label(found: Source | Path) -> str:
    """What an error calls the source."""
    return str(found) if isinstance(found, Path) else found.name


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(tables.suffix_of(path))


def _no_progress(done: int, total: int, note: str) -> None:
    """Say nothing."""
