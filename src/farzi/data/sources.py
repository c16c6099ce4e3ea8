"""The datasets that farzi knows by name, and how to tell a name from a path."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from farzi.data.tables import Columns, Layout
from farzi.errors import DataError

__all__ = [
    "SOURCES",
    "Copy",
    "Origin",
    "SeenItems",
    "Source",
    "Task",
    "available",
    "find",
    "resolve",
]

Task = Literal["recommend", "language"]
SeenItems = Literal["keep", "leave-out"]


@dataclass(frozen=True)
class Copy:
    """One form in which a dataset may lie in a data root.

    Args:
        files: names under the root, each also understood with `.gz` after it; a log has one,
            a text one each for training, validation and test.
        layout: how the table lies in its file; None: told from the name.
        columns: which columns hold what.
        sha256: of each unpacked file as published, where it is known.
    """

    files: tuple[str, ...]
    layout: Layout | None = None
    columns: Columns = field(default_factory=Columns)
    sha256: tuple[str, ...] = ()


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

    @property
    def embedded(self) -> bool:
        """Whether every Python has it, so that no file is needed."""
        return not self.copies


@dataclass(frozen=True)
class Origin:
    """Where prepared data were read: a run's folder keeps it, an artifact never does.

    Args:
        source: a name in `SOURCES`, or an absolute path.
        data_root: the absolute folder of the known datasets, where one was named.
    """

    source: str
    data_root: str | None = None

    @classmethod
    def of(
        cls, source: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None
    ) -> Origin:
        """The origin of what `prepare` was asked for, valid from any working directory.

        Example:
            >>> from farzi.data.sources import Origin
            >>> Origin.of("ml-100k", "/data")
            Origin(source='ml-100k', data_root='/data')
        """
        name = os.fspath(source)
        root = data_root if data_root is not None else os.environ.get("FARZI_DATA_ROOT")
        return cls(
            name if name in SOURCES else str(Path(name).expanduser().absolute()),
            str(Path(root).expanduser().absolute()) if root and name in SOURCES else None,
        )


_MOVIELENS_TERMS = "GroupLens: research, with acknowledgement; no redistribution, not commercial"
_MOVIELENS_CITATION = "Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015"
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
                Layout("delimited", "\t", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
                ("06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",),
            ),
            Copy(
                ("ml-100k/u.data",),
                Layout("delimited", "\t", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
                ("06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",),
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
                Layout("delimited", "\t", ""),
                Columns("user_id", "item_id", "order"),
                ("fd0e81cc5b3b29143838d055c63fa13ea7ad79e84b630c68452ac4c5c5491d59",),
            ),
            Copy(
                ("ml-1m/ratings.dat",),
                Layout("delimited", "::", "", _RATINGS),
                Columns(*_RATINGS[:2], _RATINGS[3]),
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
                Layout("delimited", ",", "", ("item_id", "user_id", "rating", "timestamp")),
                Columns("user_id", "item_id", "timestamp"),
                ("6e1b48a78f7d4713a3f15abb028d5a1258e3c06d04b258b9d478f55d057a6696",),
            ),
        ),
        seen_items="keep",
        min_length=3,
    ),
    Source(
        name="netflix",
        title="Netflix Prize, film ratings; bring your own table of user_id, item_id, timestamp",
        task="recommend",
        licence="Netflix Prize rules: research; withdrawn by its publisher",
        citation="Bennett and Lanning, The Netflix Prize, KDD Cup 2007",
        size="500x200",
        context_length=200,
        copies=(
            Copy(("netflix.parquet",)),
            Copy(("netflix.csv",)),
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
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _KNOWN}


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
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{source}: there is no such file.")
    close = difflib.get_close_matches(source, SOURCES, n=3) or SOURCES
    raise DataError(f"{source}: neither a file nor a known source, such as {', '.join(close)}.")


def find(source: Source, data_root: str | os.PathLike[str] | None) -> tuple[Copy, list[Path]]:
    """The form of a dataset that lies in the data root, and its files.

    Args:
        source: a dataset that is not embedded.
        data_root: where to look; None: the folder that `FARZI_DATA_ROOT` names.

    Raises:
        DataError: it is not there; the line says which file is looked for, and where.
    """
    root = data_root if data_root is not None else os.environ.get("FARZI_DATA_ROOT")
    wanted = ", ".join(source.copies[0].files)
    if not root:
        raise DataError(
            f"{source.name}: the data must be at hand ({wanted}); name their folder with "
            "--data-root or FARZI_DATA_ROOT."
        )
    for copy in source.copies:
        paths = [_at_hand(Path(root).expanduser(), file) for file in copy.files]
        if all(paths):
            return copy, [path for path in paths if path]
    raise DataError(f"{source.name}: {wanted} (or .gz) is not in the data root {root}.")


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
