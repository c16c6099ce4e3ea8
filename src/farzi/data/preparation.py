"""`prepare`: from the name or path of a source, or a table in memory, to `PreparedData`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from farzi.data import notes, splits, text
from farzi.data.arguments import HowRead
from farzi.data.columns import Columns
from farzi.data.events import Repeats
from farzi.data.formats import Format, ReadAs, parse_delimiter, parse_quote
from farzi.data.logs import prepare_log
from farzi.data.parts import is_in_parts, load_parts
from farzi.data.prepared import PreparedData
from farzi.data.settings import Engine, Settings, Split
from farzi.data.sources import Opened, Origin, SeenItems, Task, is_address, open_source
from farzi.data.text import Tokens
from farzi.data.texts import TextReader
from farzi.data.tokenizer import read_tokenizer
from farzi.data.vocabulary import EOS, UNKNOWN, Vocabulary
from farzi.errors import DataError, SettingsError

if TYPE_CHECKING:
    from farzi.data.cluster import ClusterLog

__all__ = ["DEFAULT_VOCABULARY_SIZE", "Engine", "Split", "arguments_of", "prepare", "prepare_parts"]

Progress = Callable[[int, int, str], None]

DEFAULT_VOCABULARY_SIZE = 2000


def prepare(
    source: Any,
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
    tie_col: str | None = None,
    format: Format | None = None,
    delimiter: str | None = None,
    quote: str | None = None,
    tokens: Tokens | None = None,
    vocabulary_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    engine: Engine = "duckdb",
    progress: Progress | None = None,
) -> PreparedData:
    r"""Turn an event log or a text into token sequences, split for training and testing.

    Args:
        source: a name in `SOURCES`; a path to Parquet, CSV, TSV, JSON lines, RecBole `.inter`, a
            file with one user a line or plain text, gzip too; a folder of Parquet parts, with a
            train, a valid and a test text, or that `PreparedData.save` or a cluster wrote; or a
            table in memory: a pandas or polars DataFrame, a pyarrow Table, a `datasets.Dataset`.
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
        user_col: column of the user; None: the most usual name. A number counts columns from 1
            in a file without a header line; `user.id` is what stands inside a column. Likewise
            the next two.
        item_col: column of the item.
        time_col: column of the time; `row`: the rows are in time order.
        tie_col: column that orders a user's events of one time; None: their place in the source.
        format: how a file lies: `table`, `jsonl`, `parquet`, `user-lines` (the user, then the
            items in time order) or `text`; None: as its name and its first lines say.
        delimiter: what stands between two fields of a table; None: as it looks.
        quote: what fields of a table may be wrapped in: `double`, `single`, `none` or a character;
            None: as it looks.
        tokens: how a text is cut: `words` (at Unicode's word boundaries, in lower case),
            `characters` or `blanks` (nowhere else); None: `words`, and `blanks` for `ptb`.
        vocabulary_size: tokens of a text, `<unk>` and `<eos>` included, chosen on the training
            part; 0: every word; None: 2,000.
        tokenizer: folder of a Hugging Face tokenizer that cuts a text, in place of `tokens` and
            `vocabulary_size`; needs the extra `hf`.
        engine: what prepares a log: `duckdb`, embedded, or `spark`, which reads Parquet alone, from
            a path or an address such as `hdfs://...`; it must run on this machine, since the
            sequences come here. `prepare_parts` leaves them where the cluster is.
        progress: called with (stages done, stages in all, what is done now).

    Returns:
        The three parts, the vocabulary and the protocol; `notes` and `warnings` say what a
        person should know of the data.

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
    settings = _settings(
        {
            "task": task,
            "split": split,
            "split_seed": split_seed,
            "k_core": k_core,
            "min_length": min_length,
            "repeats": repeats,
            "seen_items": seen_items,
            "user_col": user_col,
            "item_col": item_col,
            "time_col": time_col,
            "tie_col": tie_col,
            "format": format,
            "delimiter": delimiter,
            "quote": quote,
            "tokens": tokens,
            "vocabulary_size": vocabulary_size,
            "engine": engine,
            "tokenizer": tokenizer,
        }
    )
    report = progress or _no_progress
    opened = _open(source, settings, data_root)
    if not isinstance(opened, Opened):
        from farzi.data.cluster import prepare_by_cluster

        data = prepare_by_cluster(opened, settings, report)
    elif opened.folder is not None:
        data = _load_prepared(opened.folder, settings)
    elif opened.text is not None:
        data = _prepare_text(opened.text, settings, report)
    else:
        assert opened.log is not None
        data = prepare_log(opened.log, opened.known, settings, report)
    if not isinstance(source, str | os.PathLike):
        return data
    prepared = isinstance(opened, Opened) and opened.folder is not None
    kept = None if prepared else tokenizer  # what is prepared has its own
    return replace(data, origin=Origin.of(source, data_root, kept))


def prepare_parts(
    source: str | os.PathLike[str],
    out: str,
    *,
    progress: Progress | None = None,
    **how: Unpack[HowRead],
) -> dict[str, Any]:
    """Prepare a log on a Spark cluster, and leave the sequences in parts at an address.

    A copy of what is written, on a disk of this machine, is a source like any other.

    Args:
        source: an address such as `hdfs://...` or `s3a://...`, or a path that every machine sees.
        out: the address to write to; nothing may be there.
        progress: called with (stages done, stages in all, what is done now).
        **how: as `prepare` takes it.

    Returns:
        the fields of `PreparedData` that are neither sequences nor the vocabulary, and `counts`:
        sequences and tokens of each part, and the number of `items`.

    Raises:
        DataError: the log cannot be used, or there is something at the address.
        SettingsError: a setting does not fit, or Spark is not there.
    """
    if unknown := how.keys() - HowRead.__annotations__.keys():
        raise TypeError(f"prepare_parts() takes no argument {min(unknown)!r}.")
    settings = _settings({**how, "engine": "spark"})
    opened = _open(source, settings, how.get("data_root"))
    if isinstance(opened, Opened):
        raise SettingsError(f"--out {out}: {os.fspath(source)} is no event log in Parquet.")
    from farzi.data.cluster import write_parts

    return write_parts(opened, settings, progress or _no_progress, out)


def _settings(how: Mapping[str, Any]) -> Settings:
    """What was asked for, checked; what is not there has its default."""
    tokenizer = how.get("tokenizer")
    columns = Columns(*(how.get(f"{role}_col") for role in ("user", "item", "time", "tie")))
    return Settings(
        task=how.get("task"),
        split=how.get("split", "users"),
        split_seed=how.get("split_seed", 0),
        k_core=how.get("k_core", 0),
        min_length=how.get("min_length"),
        repeats=how.get("repeats"),
        seen_items=how.get("seen_items"),
        read_as=ReadAs(
            how.get("format"),
            columns,
            parse_delimiter(how.get("delimiter")),
            parse_quote(how.get("quote")),
        ),
        tokens=how.get("tokens"),
        vocabulary_size=how.get("vocabulary_size"),
        engine=how.get("engine", "duckdb"),
        tokenizer=None if tokenizer is None else Path(tokenizer),
    )


def _open(
    source: Any, settings: Settings, data_root: str | os.PathLike[str] | None
) -> Opened | ClusterLog:
    """What reads the source: Spark, where it is asked for and the source is an event log."""
    if settings.engine == "duckdb":
        return open_source(source, settings.read_as, settings.task, data_root)
    from farzi.data.cluster import ClusterLog
    from farzi.data.readers import ParquetReader

    if isinstance(source, str) and is_address(source):
        if settings.task == "language":
            raise SettingsError("--engine spark is for event logs, and not for --task language.")
        return ClusterLog.at(source, settings.read_as)
    opened = open_source(source, settings.read_as, settings.task, data_root)
    if opened.log is None:
        return opened
    if not isinstance(opened.log, ParquetReader):
        raise SettingsError(
            "--engine spark reads Parquet by its path or address, and no other source such as "
            f"{opened.log.label}."
        )
    return ClusterLog.on_disk(opened.log.path, opened.log.name, opened.log.read_as)


_REMEMBERED = {
    "recommend": (
        "repeats", "k_core", "min_length", "user_col", "item_col", "time_col", "tie_col", "format",
        "delimiter", "quote",
    ),
    "language": ("tokens", "vocabulary_size", "format"),
}  # fmt: skip


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
    remembered = _REMEMBERED[task]
    if protocol.get("tokens") == "tokenizer":  # a name and a hash, and no place to read it from
        remembered = ("format",)
    kept = {name: protocol[name] for name in remembered if name in protocol}
    asked = protocol.get("seen_items_by") == "asked"
    return {"task": task, **kept, **({"seen_items": seen_items} if asked else {})}


def _prepare_text(reader: TextReader, settings: Settings, report: Progress) -> PreparedData:
    settings.refuse_those_of_logs(reader.label)
    report(0, 2, "reading")
    tokenizer = None if settings.tokenizer is None else read_tokenizer(settings.tokenizer)
    read = reader.read_text(settings.split_seed, tokenizer or settings.tokens)
    report(1, 2, "choosing words")
    for part, sentences in zip(("train", "validation", "test"), read.parts, strict=True):
        if not sentences:
            raise DataError(f"{reader.label}: the {part} part holds no words.")
    eos: str = EOS
    unknown: str | None = UNKNOWN
    if tokenizer is None:
        size = settings.vocabulary_size
        size = DEFAULT_VOCABULARY_SIZE if size is None else size
        vocabulary = text.choose_words(read.parts[0], size)
        cut: dict[str, Any] = {"tokens": read.tokens, "vocabulary_size": size}
    else:
        eos, unknown = tokenizer.eos, tokenizer.unknown
        vocabulary = Vocabulary(tokenizer.tokens)
        cut = {
            "tokens": "tokenizer",
            "vocabulary_size": 0,
            "tokenizer": tokenizer.name,
            "tokenizer_sha256": tokenizer.sha256,
            "eos": eos,
        }
    train, validation, test = (text.encode_sentences(part, vocabulary, eos) for part in read.parts)
    share = notes.unknown_share((validation, test), vocabulary, unknown)
    noted, warned = notes.text_notes(share, tokenizer)
    report(2, 2, "done")
    return PreparedData(
        task="language",
        name=reader.name,
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
            **cut,
            **read.settings,
            "as_published": read.as_published,
            "words": vocabulary.size,
            "unknown_share": share,
            "train_sentences": len(train),
            "validation_sentences": len(validation),
            "test_sentences": len(test),
            "train_tokens": train.num_tokens,
            "validation_tokens": validation.num_tokens,
            "test_tokens": test.num_tokens,
        },
        tokenizer=tokenizer,
        notes=tuple(noted),
        warnings=tuple(warned),
    )


def _load_prepared(folder: Path, settings: Settings) -> PreparedData:
    """A folder prepared before, if it is what is asked for."""
    data = load_parts(folder) if is_in_parts(folder) else PreparedData.load(folder)
    if settings.task not in {None, data.task}:
        raise SettingsError(f"--task {settings.task}: {folder} was prepared for {data.task}.")
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
        _check_tokenizer(folder, data, settings)
        return data
    if settings.tokenizer is not None:
        raise SettingsError(f"--tokenizer is for texts, and {folder} is an event log.")
    if settings.repeats is not None and settings.repeats != data.protocol["repeats"]:
        raise SettingsError(
            f"--repeats {settings.repeats}: {folder} was prepared with {data.protocol['repeats']}; "
            "prepare the source again."
        )
    if settings.seen_items is None or settings.seen_items == data.seen_items:
        return data
    protocol = {**data.protocol, "seen_items_by": "asked"}
    return replace(data, seen_items=settings.seen_items, protocol=protocol)


def _check_tokenizer(folder: Path, data: PreparedData, settings: Settings) -> None:
    """Refuse another tokenizer than the one that a text was prepared with."""
    if settings.tokenizer is None:
        return
    asked = read_tokenizer(settings.tokenizer)
    if data.tokenizer is None or asked.sha256 != data.tokenizer.sha256:
        how = data.protocol["tokens"] if data.tokenizer is None else data.tokenizer.name
        raise SettingsError(
            f"--tokenizer {settings.tokenizer}: {folder} was prepared with {how}; prepare the "
            "source again."
        )


def _no_progress(done: int, total: int, note: str) -> None:
    """Say nothing."""
