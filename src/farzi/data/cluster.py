"""Preparing a log on Spark: Parquet parts in, parts of sequences out, on any file system it knows.

Spark reads, checks, counts, orders, numbers and splits; the expressions and the checks are those
that DuckDB runs. What comes to the driver: a line for each file, the counts, some thirty bytes a
user for the draw of the split, and the ids of the training users, as a stream that is hashed.
Executors run no Python.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from farzi.data import splits
from farzi.data.columns import choose_columns, shorten
from farzi.data.content import join_digests
from farzi.data.events import catalogue, number_users, place_events
from farzi.data.formats import ReadAs
from farzi.data.logs import HELD_OUT, Found, HeldOut, Rules, describe, refuse_empty_part
from farzi.data.notes import LargestShares
from farzi.data.parts import ITEMS, PARTS_FORMAT, PARTS_RECORD, load_parts
from farzi.data.prepared import PARTS, PreparedData
from farzi.data.readers import Log
from farzi.data.readers.base import Kind, check_events
from farzi.data.readers.parquet import expressions, nested_names
from farzi.data.repeats import Repetition
from farzi.data.settings import Settings
from farzi.errors import DataError, SettingsError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

__all__ = ["ClusterLog", "prepare_by_cluster", "write_parts"]

Report = Callable[[int, int, str], None]

_STAGES = 6
_EVENTS_A_PART = 1 << 22
_LARGEST_PART = (1 << 31) - (1 << 10)  # bytes that fit in an array of Java's

_SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
# What DuckDB's SQL has and Spark's has not.
_FUNCTIONS = (
    "isfinite(x DOUBLE) RETURNS BOOLEAN RETURN NOT isnan(x) AND abs(x) < double('Infinity')",
    "regexp_full_match(x STRING, p STRING) RETURNS BOOLEAN "
    r"RETURN x RLIKE concat('^(?:', p, ')\\z')",
)


@dataclass(frozen=True)
class ClusterLog:
    """Parquet that Spark reads.

    Args:
        address: of the file or the folder, as Spark takes it.
        label: what errors call it.
        name: what results call it.
        read_as: what the caller says of it.
    """

    address: str
    label: str
    name: str
    read_as: ReadAs

    @classmethod
    def at(cls, address: str, read_as: ReadAs) -> ClusterLog:
        """What lies at an address."""
        name = re.sub(r"\.(parquet|pq)$", "", _path_of(address).rstrip("/").rsplit("/", 1)[-1])
        return cls(address, address, name, read_as)

    @classmethod
    def on_disk(cls, path: Path, name: str, read_as: ReadAs) -> ClusterLog:
        """A file or a folder that every machine of the cluster sees under the same path."""
        return cls(f"file://{path.resolve()}", str(path), name, read_as)


def prepare_by_cluster(log: ClusterLog, settings: Settings, report: Report) -> PreparedData:
    """Prepare a log on Spark that runs on this machine; the sequences stay in mapped files.

    Raises:
        DataError: the log cannot be used.
        SettingsError: Spark is not there, or runs on other machines.
    """
    with tempfile.TemporaryDirectory(prefix="farzi-", ignore_cleanup_errors=True) as scratch:
        with _spark(log.label) as session:
            master = session.conf.get("spark.master", "")
            if not master.startswith("local"):
                raise SettingsError(
                    f"--out: Spark runs on {master}, whose machines do not see the folders of this "
                    "one; name an address, such as hdfs://... or s3a://..., or file:///... on a "
                    "disk that all share."
                )
            _prepare(session, log, settings, report, f"file://{scratch}/parts")
        report(_STAGES - 1, _STAGES, "joining the parts")
        data = load_parts(Path(scratch, "parts"))
    report(_STAGES, _STAGES, "done")
    return data


def write_parts(log: ClusterLog, settings: Settings, report: Report, out: str) -> dict[str, Any]:
    """Prepare a log on Spark and leave it in parts at an address.

    Args:
        log: what is read.
        settings: what was asked for.
        report: called with (stages done, stages in all, what is done now).
        out: the address; nothing may be there.

    Returns:
        the record that was written: the fields of `PreparedData` that are neither sequences nor the
        vocabulary, and `counts`.

    Raises:
        DataError: the log cannot be used, or there is something at the address.
        SettingsError: Spark is not there.
    """
    with _spark(log.label) as session:
        if _exists(session, out):
            raise DataError(f"{out}: exists already; remove it, or name another address.")
        record = _prepare(session, log, settings, report, out.rstrip("/"))
    report(_STAGES, _STAGES, "done")
    return record


# ------------------------------------------------------------------------------------ the session


@contextmanager
def _spark(label: str) -> Iterator[Any]:
    """A session of its own, so that no setting and no view of the caller's is touched."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise SettingsError("--engine spark needs an extra: pip install 'farzi[spark]'.") from None
    try:
        own = SparkSession.getActiveSession() is None
        builder = SparkSession.builder.config("spark.ui.showConsoleProgress", "false")
        session = builder.getOrCreate().newSession()
        if own and not session.conf.get("spark.log.level", ""):
            session.sparkContext.setLogLevel("OFF")  # what fails is said in a line
    except (PySparkException, Py4JError, OSError) as error:
        raise SettingsError(
            f"--engine spark: Spark does not start ({_reason(error)}); `farzi doctor` says whether "
            "its Java is there."
        ) from None
    try:
        for name, value in _SETTINGS.items():
            session.conf.set(name, value)
        for function in _FUNCTIONS:
            session.sql(f"CREATE OR REPLACE TEMPORARY FUNCTION {function}")
        yield session
    except (PySparkException, Py4JError) as error:
        raise DataError(f"{label}: Spark failed ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    """What went wrong, in a line: the innermost cause that says something."""
    java = getattr(error, "java_exception", None)
    lines = (str(java) if java is not None else str(error)).splitlines()
    causes = [line.split("Caused by: ", 1)[1] for line in lines if "Caused by: " in line]
    first = next((line for line in lines if line.strip()), type(error).__name__)
    return shorten(re.sub(r"^[\w.$]+(Exception|Error): ", "", (causes or [first])[-1]), 300)


def _translate(query: str) -> str:
    """DuckDB's SQL in Spark's words."""
    import sqlglot

    return sqlglot.transpile(query, read="duckdb", write="spark")[0]


def _send(session: Any, columns: Mapping[str, Any]) -> Any:
    """A table of what is here, as Arrow: a list of rows would have executors start Python."""
    import pyarrow as pa

    return session.createDataFrame(pa.table(dict(columns)))


class _Connection:
    """Takes DuckDB's SQL, as the checks of every reader are written, and asks Spark."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rows: list[Any] = []

    def execute(self, query: str) -> _Connection:
        """Run a query whose answer is small."""
        self._rows = self._session.sql(_translate(query)).collect()
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row of the answer."""
        return tuple(self._rows[0]) if self._rows else None


# ---------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _File:
    """A part of the source.

    Args:
        path: as Spark lists it.
        length: bytes.
    """

    path: str
    length: int


def _read(session: Any, log: ClusterLog) -> Log:
    """Make the view `events`, as every reader does: checked, typed, rows numbered."""
    if log.read_as.format not in {None, "parquet"}:
        raise SettingsError(f"--format {log.read_as.format}: --engine spark reads Parquet alone.")
    files = _list_files(session, log)
    paths = [_escape(file.path) for file in files]
    source = (
        session.read.option("mergeSchema", "true")
        .option("recursiveFileLookup", "true")  # folders such as day=1 are no columns
        .parquet(*paths)
    )
    schema = _arrow_schema(source.schema)
    chosen = choose_columns(
        log.label, schema.names, log.read_as.columns, nested=nested_names(schema)
    )
    fields, kinds = _fields(*expressions(schema, chosen))
    _number_rows(session, source, fields)
    rows = {row.file: row.rows for row in session.table("farzi_files").collect()}
    ordered = sorted(rows, key=_names_of_uri)

    def place(row: int) -> str:
        if row < 0:
            return log.label
        for file in ordered:
            if row < rows[file]:
                return f"{urllib.parse.unquote(file).replace('file:///', '/')}, row {row + 1}"
            row -= rows[file]
        return log.label

    for role in ("time", "tie"):
        if kinds.get(role) == "text":
            raise DataError(
                f"{log.label}, column {chosen.read[role]!r}: it holds text, where --engine spark "
                f"reads numbers or dates; --{role}-col names another."
            )
    select, notes = check_events(_Connection(session), chosen, place, kinds)
    session.sql(_translate(select)).createOrReplaceTempView("events")
    return Log(
        _fingerprint(session, paths),
        chosen.columns,
        {"format": "parquet"},
        (*chosen.notes, *notes),
    )


def _list_files(session: Any, log: ClusterLog) -> list[_File]:
    """The Parquet parts at an address, in the order of their names."""
    address = _escape(log.address)
    if not _exists(session, address):
        raise DataError(f"{log.label}: there is no such file.")
    listed = session.read.format("binaryFile").option("recursiveFileLookup", "true")
    found = [
        _File(row.path, row.length)
        for row in listed.load(address).select("path", "length").collect()
    ]
    above = _names(log.address)
    inside = [(file, _names(file.path)[len(above) :]) for file in found]
    if any(_names(file.path)[: len(above)] != above for file in found):
        raise DataError(f"{log.label}: Spark lists it under other names; write it in full.")
    parts = [
        file
        for file, below in inside
        if not below
        or (
            below[-1].endswith((".parquet", ".pq"))
            and not any(name.startswith((".", "_")) for name in below)
        )
    ]
    if not parts:
        raise DataError(f"{log.label}: it holds no Parquet parts.")
    for file in parts:
        if file.length > _LARGEST_PART:
            raise DataError(
                f"{file.path}: more than 2 GiB in one file, which Spark cannot fingerprint; write "
                "the log in smaller parts."
            )
        if file.length == 0:
            raise DataError(f"{file.path}: the file is empty.")
    return sorted(parts, key=lambda file: _names(file.path))


def _fields(query: str, kinds: dict[str, Kind | str]) -> tuple[list[str], dict[str, Kind | str]]:
    """The chosen columns as Spark's SQL, times as whole numbers, and what they hold."""
    import sqlglot

    fields = []
    for field in sqlglot.parse_one(f"SELECT {query}", read="duckdb").expressions:
        role, column = field.alias, field.this.sql("spark")
        if role in {"time", "tie"} and kinds[role] == "date":
            column = f"unix_micros(CAST({column} AS TIMESTAMP))"
            kinds[role] = "integer"
        fields.append(f"{column} AS `{role}`")
    return fields, kinds


def _number_rows(session: Any, source: Any, fields: Sequence[str]) -> None:
    """The view `raw`, rows numbered by the order of the files and the place in them."""
    import pyarrow as pa

    raw = source.selectExpr("_metadata.file_path AS file", "_metadata.row_index AS index", *fields)
    counted = raw.groupBy("file").count().collect()
    counts = sorted(
        ((row["file"], row["count"]) for row in counted), key=lambda c: _names_of_uri(c[0])
    )
    before = itertools.accumulate((rows for _, rows in counts), initial=0)
    files = _send(
        session,
        {
            "file": pa.array([file for file, _ in counts], pa.string()),
            "rows": pa.array([rows for _, rows in counts], pa.int64()),
            "first_row": pa.array(list(before)[:-1], pa.int64()),
        },
    )
    files.createOrReplaceTempView("farzi_files")
    raw.createOrReplaceTempView("farzi_rows")
    roles = ", ".join(field.rsplit(" AS ", 1)[1] for field in fields)
    session.sql(
        f"SELECT /*+ BROADCAST(farzi_files) */ first_row + index AS row, {roles} "
        "FROM farzi_rows JOIN farzi_files USING (file)"
    ).createOrReplaceTempView("raw")


def _fingerprint(session: Any, paths: Sequence[str]) -> str:
    """`sha256:...` of the content of the parts, each hashed where it is read."""
    content = session.read.format("binaryFile").load(list(paths))
    hashed = content.selectExpr("path", "sha2(content, 256) AS digest").collect()
    ordered = sorted(hashed, key=lambda row: _names(row.path))
    return join_digests([row.digest for row in ordered])


def _arrow_schema(schema: Any) -> Any:
    """The columns as Arrow has them; `nothing` for a type that Arrow has not."""
    import pyarrow as pa
    from pyspark.errors import PySparkException
    from pyspark.sql.pandas.types import to_arrow_type
    from pyspark.sql.types import DecimalType

    columns = []
    for column in schema:
        try:
            type_ = to_arrow_type(column.dataType)
        except PySparkException:
            type_ = pa.null()
        if column.dataType == DecimalType(20, 0):
            type_ = pa.uint64()  # as Spark reads unsigned numbers of 64 bits
        columns.append(pa.field(column.name, type_))
    return pa.schema(columns)


def _exists(session: Any, address: str) -> bool:
    """Whether there is a file or a folder."""
    from pyspark.errors import AnalysisException

    try:
        session.read.format("binaryFile").option("recursiveFileLookup", "true").load(address)
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error):
            return False
        raise
    return True


def _path_of(address: str) -> str:
    """An address without its scheme and host."""
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:(//[^/]*)?", "", address)


def _names(address: str) -> list[str]:
    """The names in an address, by which files are ordered as local paths are."""
    return [name for name in _path_of(address).split("/") if name]


def _names_of_uri(uri: str) -> list[str]:
    """Likewise, of an address in which some characters are written as %XX."""
    return _names(urllib.parse.unquote(uri))


def _escape(address: str) -> str:
    """An address none of whose characters stands for others."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", address)


# -------------------------------------------------------------------------------------- preparing


class _Engine:
    """Ibis on a session of Spark; what it holds is held by the executors, and freed at the end."""

    def __init__(self, session: Any) -> None:
        import ibis

        self._session = session
        self._backend = ibis.pyspark.connect(session)
        self._held: list[Any] = []

    def table(self, name: str) -> ir.Table:
        """A view of the session."""
        return cast("ir.Table", self._backend.table(name))

    def frame(self, table: ir.Table) -> Any:
        """An expression as Spark's DataFrame; nothing runs yet."""
        return self._session.sql(self._backend.compile(table))

    def hold(self, table: ir.Table) -> ir.Table:
        """The same table, computed once when it is first needed."""
        from pyspark import StorageLevel

        name = f"farzi_held_{len(self._held)}"
        frame = self.frame(table).persist(StorageLevel.MEMORY_AND_DISK)
        frame.createOrReplaceTempView(name)
        self._held.append(frame)
        return self.table(name)

    def send(self, columns: Mapping[str, NDArray[Any]]) -> ir.Table:
        """A table of arrays of this process."""
        name = f"farzi_held_{len(self._held)}"
        frame = _send(self._session, columns)
        frame.createOrReplaceTempView(name)
        self._held.append(frame)
        return self.table(name)

    def rows(self, table: ir.Table) -> list[Any]:
        """All rows of a table that is small."""
        return list(self.frame(table).collect())

    def count(self, table: ir.Table) -> int:
        """How many rows a table has."""
        return int(self.frame(table).count())

    def free(self) -> None:
        """Let go of what is held."""
        for frame in self._held:
            frame.unpersist()


def _prepare(
    session: Any, log: ClusterLog, settings: Settings, report: Report, out: str
) -> dict[str, Any]:
    """Read, order, number, split, count, and write; returns the record."""
    settings.refuse_those_of_texts(log.label)
    rules = Rules.of(settings, None)
    report(0, _STAGES, "reading")
    read = _read(session, log)
    engine = _Engine(session)
    try:
        record = _order(engine, log, read, rules, report, out)
    finally:
        engine.free()
    line = json.dumps({"format": PARTS_FORMAT, **record}, sort_keys=True)
    text = _send(session, {"line": [line]}).coalesce(1)
    text.write.text(f"{out}/{PARTS_RECORD}")
    return record


def _order(
    engine: _Engine, log: ClusterLog, read: Log, rules: Rules, report: Report, out: str
) -> dict[str, Any]:
    """Order, number, split and write the events of `events`, and count what is in them."""
    report(1, _STAGES, "choosing the events")
    events = engine.hold(rules.select(engine.table("events"), engine.hold))
    items = engine.hold(catalogue(events))
    users = engine.hold(number_users(events))
    num_users, num_items = engine.count(users), engine.count(items)
    rules.refuse_too_few_users(log.label, num_users)
    report(2, _STAGES, "ordering the events")
    placed = engine.hold(place_events(events, items, users))
    repetition, tied = _repetition(engine, events)
    seen_items, _ = rules.seen_items(repetition)
    split = _split(engine, placed, users, rules.settings, num_users)
    sizes = {part: split[part].sizes(engine) for part in PARTS}
    for part, (sequences, _) in sizes.items():
        refuse_empty_part(log.label, part, sequences)
    report(3, _STAGES, "writing the sequences")
    for part, (_, num_events) in sizes.items():
        _write_sequences(engine, split[part].events, num_events, f"{out}/{part}")
    engine.frame(items.select("token", "item")).write.parquet(f"{out}/{ITEMS}")
    report(4, _STAGES, "counting")
    known = split["train"].events.select("token").distinct()
    held_out = {}
    for part in HELD_OUT:
        unknown = engine.count(split[part].targets.anti_join(known, "token"))
        unrankable = (
            engine.count(split[part].unrankable(num_items)) if seen_items == "leave-out" else 0
        )
        held_out[part] = HeldOut(sizes[part][0], unknown, unrankable)
    members = engine.frame(split["train"].users.order_by("user").select("user"))
    found = Found(
        users=num_users,
        items=num_items,
        train_users=sizes["train"][0],
        train_events=sizes["train"][1],
        train_users_hash=splits.hash_sorted_ids(row.user for row in members.toLocalIterator()),
        tied=tied,
        repetition=repetition,
        largest=_largest(engine, users, placed, items, repetition.events),
        held_out=held_out,
    )
    counts = {ITEMS: num_items, **{part: list(size) for part, size in sizes.items()}}
    return {**describe(log.name, read, rules, found), "counts": counts}


@dataclass(frozen=True)
class _Part:
    """One part of a split.

    Args:
        users: `user`, `place`, `length`: all of their events, of the users in it.
        events: `place`, `length`, `token`, `position`, of the events in it.
        cut: how many events at the end of each sequence are left to other parts.
    """

    users: ir.Table
    events: ir.Table
    cut: int

    @property
    def targets(self) -> ir.Table:
        """The last event of every user in it."""
        return self.events.filter(self.events.position == self.events.length - self.cut - 1)

    def sizes(self, engine: _Engine) -> tuple[int, int]:
        """How many users and events."""
        sizes = self.users.agg(users=self.users.count(), events=self.users.length.sum())
        ((users, events),) = engine.rows(sizes)
        return int(users), int(events or 0) - self.cut * int(users)

    def unrankable(self, num_items: int) -> ir.Table:
        """Users who had every item but their target."""
        long = self.events.filter(self.events.length - self.cut >= num_items)
        had = long.group_by("place").agg(items=long.token.nunique())
        return had.filter(had["items"] == num_items)


def _split(
    engine: _Engine, placed: ir.Table, users: ir.Table, settings: Settings, num_users: int
) -> Mapping[str, _Part]:
    """The three parts."""
    if settings.split == "leave-last-out":
        parts = {}
        for part, cut in zip(PARTS, (2, 1, 0), strict=True):
            events = placed.filter(placed.length >= cut + 2)
            events = events.filter(events.position < events.length - cut)
            parts[part] = _Part(users.filter(users.length >= cut + 2), events, cut)
        return parts
    draw = splits.three_ways(num_users, settings.split_seed, what="users")
    places = np.concatenate([draw.validation, draw.test])
    is_test = np.repeat([False, True], [len(draw.validation), len(draw.test)])
    held = engine.send({"place": places, "is_test": is_test})
    validation, test = held.filter(~held.is_test), held.filter(held.is_test)
    return {
        "train": _Part(users.anti_join(held, "place"), placed.anti_join(held, "place"), 0),
        "validation": _Part(
            users.semi_join(validation, "place"), placed.semi_join(validation, "place"), 0
        ),
        "test": _Part(users.semi_join(test, "place"), placed.semi_join(test, "place"), 0),
    }


def _repetition(engine: _Engine, events: ir.Table) -> tuple[Repetition, int]:
    """Repeats and duplicates, and how many events have the time of the user's one before."""
    total = engine.count(events)
    at_once = engine.count(events.select("user", "item", "time").distinct())
    pairs = engine.count(events.select("user", "item").distinct())
    moments = engine.count(events.select("user", "time").distinct())
    return Repetition(total, at_once - pairs, total - at_once), total - moments


def _largest(
    engine: _Engine, users: ir.Table, placed: ir.Table, items: ir.Table, events: int
) -> LargestShares:
    """The user and the item with the most events; of several, the first."""
    import ibis

    longest = users.order_by(ibis.desc("length"), "place").limit(1)
    ((user, length),) = engine.rows(longest.select("user", "length"))
    counted = placed.group_by("token").agg(events=placed.count())
    first = counted.order_by(ibis.desc("events"), "token").limit(1)
    ((item, times),) = engine.rows(first.inner_join(items, "token").select("item", "events"))
    return LargestShares(user, length / events, item, times / events)


def _write_sequences(engine: _Engine, events: ir.Table, num_events: int, address: str) -> None:
    """Write events in the order of users and positions; files and their names follow it too."""
    table = engine.frame(events.select("place", "position", "token"))
    parts = -(-num_events // _EVENTS_A_PART)
    ordered = table.repartitionByRange(parts, "place").sortWithinPartitions("place", "position")
    wide = ordered.selectExpr("CAST(place AS BIGINT) AS place", "token")  # Spark counts rows in INT
    wide.write.parquet(address)
