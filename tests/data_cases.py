# ruff: noqa: E501  # messages stand as they are said
"""Sources that are read, and what is made of them; sources that are refused, and what is said.

The tests run every case; `scripts/render_docs.py` makes the tables of `docs/data.md` from them.
Nothing here imports farzi.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Content = str | bytes | Callable[[], bytes]

HEADER = "user,item,time\n"
GOOD = "".join(f"{user},{item},{user + item}\n" for user in range(10) for item in range(4))
LOG = HEADER + GOOD  # 41 lines: 10 users of 4 events each, over 4 items


@dataclass(frozen=True)
class Case:
    """A source.

    Args:
        group: of cases, in the documentation.
        what: the source, in words.
        files: name to content; a name may stand in a folder. A content of None is a pipe.
        settings: of `prepare`.
        source: what is handed to `prepare`: one of the files, or a folder; empty: the first file.
    """

    group: str
    what: str
    files: Mapping[str, Content | None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def write(self, folder: Path) -> Path:
        """Write the files and return the source."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                os.mkfifo(path)
                continue
            made = content() if callable(content) else content
            path.write_bytes(made.encode() if isinstance(made, str) else made)
        return folder / (self.source or next(iter(self.files)))

    @property
    def name(self) -> str:
        """What the source is called."""
        return self.source or next(iter(self.files))

    @property
    def flags(self) -> str:
        """The settings as the command line has them."""
        return " ".join(
            f"--{name.replace('_', '-')} {value}" for name, value in self.settings.items()
        )


@dataclass(frozen=True)
class Read(Case):
    """A source that is read.

    Args:
        made: what is made of it: counts, by the names that the protocol has for them.
        said: notes and warnings that come with it.
    """

    made: Mapping[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused(Case):
    """A source that is refused.

    Args:
        message: exactly what is said; `{source}` is the source's path, `{folder}` its folder's.
        error: the name of the exception.
    """

    message: str = ""
    error: str = "DataError"


def packed(content: str | bytes) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return gzip.compress(raw, mtime=0)


def parquet(make: Callable[[Any], Mapping[str, Any]]) -> Callable[[], bytes]:
    """A Parquet file of columns that are made with pyarrow at hand."""

    def content() -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(make(pa))), buffer)
        return buffer.getvalue()

    return content


def lines(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def events(users: int = 10, length: int = 4, items: int = 7) -> list[tuple[int, int, int]]:
    return [(u, (u + k) % items, k) for u in range(users) for k in range(length)]


def table(*header: str, delimiter: str = ",", more: str = "", users: int = 10) -> str:
    rows = [delimiter.join(header)]
    rows += [delimiter.join(map(str, event)) + more for event in events(users)]
    return "\n".join(rows) + "\n"


def columns(pa: Any, user: Any = None, item: Any = None, time: Any = None) -> dict[str, Any]:
    """Columns of ten users with four events each; each may be replaced by a function of an event."""
    del pa
    rows = events()
    return {
        "user": [user(*row) if user else row[0] for row in rows],
        "item": [item(*row) if item else row[1] for row in rows],
        "time": [time(*row) if time else row[2] for row in rows],
    }


SMALL = {"users": 10, "items": 7, "events": 40}
NAMED = {"user_col": "1", "item_col": "2", "time_col": "3"}
SENTENCES = "".join(f"this is line {n} of {n % 5}.\n" for n in range(40))

READ: list[Read] = [
    # ------------------------------------------------------------------ what tables are called
    Read(
        "Columns",
        "names in other spellings",
        {"log.csv": table("User ID", "itemId", "Timestamp")},
        made=SMALL | {"user_col": "User ID", "item_col": "itemId", "time_col": "Timestamp"},
    ),
    Read(
        "Columns",
        "several columns that could be the user",
        {
            "log.csv": "sessionId,user_id,item,time\n"
            + "".join(f"s{u // 2},{u},{i},{t}\n" for u, i, t in events())
        },
        made=SMALL | {"user_col": "user_id"},
        said=("user column 'user_id'; there is also 'sessionId' (--user-col)",),
    ),
    Read(
        "Columns",
        "no header line, columns by number",
        {"log.dat": "".join(f"{u}::{i}::5::{t}\n" for u, i, t in events())},
        settings={"user_col": "1", "item_col": "2", "time_col": "4"},
        made=SMALL | {"delimiter": "::"},
    ),
    Read(
        "Columns",
        "rows in time order, without a time",
        {"log.csv": "user,item\n" + "".join(f"{u},{i}\n" for u, i, _ in events())},
        settings={"time_col": "row"},
        made=SMALL | {"tied_events": 0},
    ),
    Read(
        "Columns",
        "a column that orders events of one time",
        {"log.csv": "user,item,day,seq\n" + "".join(f"{u},{i},1,{t}\n" for u, i, t in events())},
        settings={"time_col": "day", "tie_col": "seq"},
        made=SMALL | {"tied_events": 30, "ties": "column"},
        said=(
            "100% of neighbouring events of a user have the same time: the column 'seq' decides "
            "between them",
        ),
    ),
    Read(
        "Columns",
        "a placeholder for most users",
        {
            "log.csv": HEADER
            + "".join(f"{u if u < 4 else 'unknown'},{i},{u * 4 + t}\n" for u, i, t in events())
        },
        made={"users": 5, "events": 40},
        said=(
            "the largest user has 60.0% of all events, the most frequent item 17.5%",
            "60% of all events have the user 'unknown': if that stands for a missing value, leave "
            "such rows out or name another column with --user-col",
        ),
    ),
    # ------------------------------------------------------------------ what tables look like
    Read(
        "Tables",
        "semicolons",
        {"log.csv": table("user", "item", "time", delimiter=";")},
        made=SMALL,
    ),
    Read(
        "Tables",
        "gzip, whatever its name",
        {"log.csv": packed(table("user", "item", "time"))},
        made=SMALL,
    ),
    Read(
        "Tables",
        "empty lines before the header",
        {"log.csv": "\n\n" + LOG},
        settings={"time_col": "row"},
        made={"users": 10, "items": 4, "events": 40},
    ),
    Read(
        "Tables",
        "line ends inside quotes",
        {
            "log.csv": "user,item,time,text\n"
            + "".join(f'{u},{i},{t},"a\nb"\n' for u, i, t in events())
        },
        made=SMALL | {"quote": '"'},
    ),
    Read(
        "Tables",
        "quotes that do not quote, in a column that is not read",
        {
            "log.tsv": "user\titem\ttime\ttitle\n"
            + "".join(
                f"{u}\t{i}\t{t}\t{title}\n"
                for (u, i, t), title in zip(
                    events(), ['"Heroes', "Low", '12" mix', 'Say "hello"'] * 10, strict=True
                )
            )
        },
        made=SMALL | {"quote": "none"},
    ),
    Read(
        "Tables",
        "quotes that do not pair up, in a column that is read",
        {
            "log.tsv": "user\titem\ttime\n"
            + "".join(
                f"{u}\t{item}\t{t}\n"
                for (u, _, t), item in zip(
                    events(), ['"Heroes', "Low", '12" mix', "Lodger"] * 10, strict=True
                )
            )
        },
        made=SMALL | {"quote": "none", "items": 4},
        said=(
            "column 'item': 20 values hold a double quote, which was taken for text, as in '\"Heroes' "
            "(--quote double takes quotes for quotes)",
        ),
    ),
    Read(
        "Tables",
        "fields in quotes",
        {
            "log.tsv": "user\titem\ttime\n"
            + "".join(f'"u {u}"\t"{i}"\t{t}\n' for u, i, t in events())
        },
        made=SMALL | {"quote": '"'},
    ),
    Read(
        "Tables",
        "whole-number ids written as fractions",
        {"log.csv": HEADER + "".join(f"{u},{i}.0,{t}\n" for u, i, t in events())},
        made=SMALL,
        said=("column 'item': whole numbers written as fractions, read as whole",),
    ),
    Read(
        "Tables",
        "dates, most of them alike",
        {"log.csv": HEADER + "".join(f"{u},{i},2024-05-{1 + t // 3:02}\n" for u, i, t in events())},
        made=SMALL | {"tied_events": 20},
        said=(
            "67% of neighbouring events of a user have the same time: the order of the source "
            "decides between them",
        ),
    ),
    Read(
        "Tables",
        "a row written twice",
        {"log.csv": LOG + "3,2,5\n"},
        made={"users": 10, "items": 4, "events": 41, "exact_duplicates": 1, "repeated_events": 0},
        said=("exact duplicates (same user, item and time): 1, kept; --repeats first drops them",),
    ),
    Read(
        "Tables",
        "users who had every item",
        {"log.csv": LOG},
        made={
            "users": 10,
            "items": 4,
            "events": 40,
            "test_unrankable": 1,
            "validation_unrankable": 1,
        },
        said=(
            "test: 1 of 1 users had every item, so nothing is left to rank their target with; AUC "
            "leaves them out",
        ),
    ),
    Read(
        "Tables",
        "a target that no training user ever had",
        {
            "log.csv": HEADER
            + "".join(f"{u},{'new' if (u, t) == (2, 3) else i},{t}\n" for u, i, t in events())
        },
        made={"users": 10, "items": 8, "validation_unknown_targets": 1, "test_unknown_targets": 0},
        said=("validation: no training user ever had 1 of the 1 targets",),
    ),
    # -------------------------------------------------------------------------- other formats
    Read(
        "Other formats",
        "JSON lines whose first record lacks a key",
        {
            "log.jsonl": lines(
                *(
                    {"user_id": u, "asin": f"a{i}"} | ({"item_id": i} if n else {}) | {"time": t}
                    for n, (u, i, t) in enumerate(events())
                )
            )
        },
        settings={"item_col": "asin"},
        made=SMALL | {"item_col": "asin"},
    ),
    Read(
        "Other formats",
        "JSON lines with nested ids",
        {
            "log.jsonl": lines(
                *(
                    {"user": {"id": u}, "product": {"sku": f"p{i}"}, "time": t}
                    for u, i, t in events()
                )
            )
        },
        settings={"user_col": "user.id", "item_col": "product.sku"},
        made=SMALL | {"user_col": "user.id"},
    ),
    Read(
        "Other formats",
        "whole-number ids as floats in Parquet",
        {"log.parquet": parquet(lambda pa: columns(pa, item=lambda u, i, t: float(i)))},
        made=SMALL,
        said=("column 'item': whole numbers written as fractions, read as whole",),
    ),
    Read(
        "Other formats",
        "a folder of Parquet parts",
        {
            f"parts/part-{n}.parquet": parquet(
                lambda pa, n=n: {k: v[n * 20 : n * 20 + 20] for k, v in columns(pa).items()}  # type: ignore[misc]
            )
            for n in range(2)
        },
        source="parts",
        made=SMALL | {"format": "parquet"},
    ),
    Read(
        "Other formats",
        "numbers in a .txt, one user a line",
        {
            "log.txt": "".join(
                f"{u} " + " ".join(str((u + k) % 7) for k in range(2 + u % 5)) + "\n"
                for u in range(10)
            )
        },
        made={"users": 10, "items": 7, "events": 40, "format": "user-lines"},
        said=(
            "read as one user a line: the user, then the items in time order (--format text: as a "
            "text)",
        ),
    ),
    Read(
        "Other formats",
        "words in a .txt, one user a line, when told so",
        {
            "log.txt": "".join(
                f"user{u} " + " ".join(f"film{(u + k) % 7}" for k in range(4)) + "\n"
                for u in range(10)
            )
        },
        settings={"format": "user-lines"},
        made=SMALL,
    ),
    Read(
        "Other formats",
        "lines of a user and an item, in time order",
        {"log.txt": "".join(f"{u} {i}\n" for u, i, _ in events())},
        made=SMALL | {"time_col": "row"},
        said=("read as lines of a user and an item, in time order (--format text: as a text)",),
    ),
    Read(
        "Other formats",
        "JSON lines in a .txt",
        {"log.txt": lines(*({"user": u, "item": i, "time": t} for u, i, t in events()))},
        made=SMALL | {"format": "jsonl"},
        said=("read as JSON lines (--format text: as a text)",),
    ),
    Read(
        "Other formats",
        "Parquet, whatever its name",
        {"log.txt": parquet(columns)},
        made=SMALL | {"format": "parquet"},
    ),
    Read(
        "Other formats",
        "a table in a .txt",
        {"log.txt": table("user_id", "item_id", "timestamp", delimiter="\t")},
        made=SMALL | {"format": "table"},
        said=("read as a table (--format text: as a text)",),
    ),
    # ---------------------------------------------------------------------------------- texts
    Read(
        "Texts",
        "a sentence a line",
        {"notes.txt": SENTENCES},
        made={"tokens": "words", "train_sentences": 32, "test_sentences": 4},
    ),
    Read(
        "Texts",
        "a folder with a split of its own",
        {
            "corpus/wiki.train.tokens": SENTENCES,
            "corpus/wiki.valid.tokens": SENTENCES[:90],
            "corpus/wiki.test.tokens": SENTENCES[:45],
        },
        source="corpus",
        made={"split": "official", "train_sentences": 40, "test_sentences": 3},
    ),
    Read(
        "Texts",
        "vowel signs belong to their words",
        {"notes.txt": "नमस्ते दोस्त\n" * 10},
        made={"words": 4, "train_tokens": 24},
    ),
    Read(
        "Texts",
        "two forms of one letter",
        {"notes.txt": "caf\u00e9 noir\ncafe\u0301 noir\n" * 5},
        made={"words": 4, "unknown_share": 0.0},
    ),
    Read(
        "Texts",
        "a script without blanks",
        {"notes.txt": "今天天气很好\n" * 10},
        made={"words": 7, "train_tokens": 56},
    ),
    Read(
        "Texts",
        "letters as tokens",
        {"notes.txt": "to be\n" * 10},
        settings={"tokens": "characters"},
        made={"words": 7, "train_tokens": 48},
    ),
    Read(
        "Texts",
        "words of the test part that the training part lacks",
        {"notes.txt": "".join(f"word{n}\n" for n in range(40))},
        made={"unknown_share": 1.0},
        said=(
            "100.0% of the held-out words are <unk>: see --vocabulary-size, and --tokens for text "
            "that is not cut by blanks",
        ),
    ),
]

_WITHOUT_HEADER = "(by number where the file has no header line)"

REFUSED: list[Refused] = [
    # ---------------------------------------------------------------------------- no such thing
    Refused(
        "Files",
        "no file",
        {"other.csv": LOG},
        source="log.csv",
        message="{source}: there is no such file.",
    ),
    Refused("Files", "nothing in it", {"log.csv": ""}, message="{source}: the file is empty."),
    Refused(
        "Files",
        "nothing in it, packed",
        {"log.csv.gz": packed("")},
        message="{source}: the file is empty.",
    ),
    Refused(
        "Files",
        "nothing in it, named Parquet",
        {"log.parquet": ""},
        message="{source}: the file is empty.",
    ),
    Refused(
        "Files", "empty lines only", {"log.csv": "\n\n\n"}, message="{source}: the file is empty."
    ),
    Refused(
        "Files", "a header only", {"log.csv": HEADER}, message="{source}: the file holds no events."
    ),
    Refused(
        "Files",
        "a Parquet table without rows",
        {
            "log.parquet": parquet(
                lambda pa: {name: pa.array([], pa.int64()) for name in ("user", "item", "time")}
            )
        },
        message="{source}: the file holds no events.",
    ),
    Refused(
        "Files",
        "a gzip that was cut off",
        {"log.csv.gz": packed(LOG)[:60]},
        message="{source}: cannot be read (Compressed file ended before the end-of-stream marker was "
        "reached).",
    ),
    Refused(
        "Files", "no Parquet", {"log.parquet": "hello"}, message="{source}: not a Parquet file."
    ),
    Refused(
        "Files",
        "bytes that are no text",
        {"log.bin": bytes(range(254, -1, -1))},
        message="{source}, line 1: not UTF-8 text.",
    ),
    Refused(
        "Files",
        "UTF-16",
        {"log.csv": LOG.encode("utf-16")},
        message="{source}, line 1: not UTF-8 text (it looks like UTF-16).",
    ),
    Refused(
        "Files",
        "a pipe",
        {"log.csv": None},
        message="{source}: a pipe or a device, where a regular file is needed.",
    ),
    Refused(
        "Files",
        "a folder of something else",
        {"folder/notes.md": "hello"},
        source="folder",
        message="{source}: neither a folder that `farzi prepare` wrote, nor one of Parquet parts, nor "
        "one with a train, a valid and a test text.",
    ),
    Refused(
        "Files",
        "a folder of texts without a test text",
        {"corpus/train.txt": SENTENCES, "corpus/valid.txt": SENTENCES},
        source="corpus",
        message="{source}: no test text, where train, valid and test are needed.",
    ),
    Refused(
        "Files",
        "Parquet parts with other columns",
        {
            "parts/a.parquet": parquet(columns),
            "parts/b.parquet": parquet(lambda pa: columns(pa, item=lambda u, i, t: f"i{i}")),
        },
        source="parts",
        message="{folder}/parts/b.parquet: its columns are not those of a.parquet.",
    ),
    # ---------------------------------------------------------------------------------- columns
    Refused(
        "Columns",
        "no time",
        {"log.tsv": "user\titem\n1\t2\n"},
        message="{source}: no time column among user, item; name it with --time-col (by number where "
        "the file has no header line; `row` where the rows are in time order).",
    ),
    Refused(
        "Columns",
        "a column that is not there",
        {"log.csv": LOG},
        settings={"user_col": "visitor"},
        message="{source}: no column 'visitor' among user, item, time; name it with --user-col "
        f"{_WITHOUT_HEADER}.",
    ),
    Refused(
        "Columns",
        "no header line",
        {"log.csv": GOOD},
        message="{source}: no user column among 0, 0, 0; name it with --user-col "
        f"{_WITHOUT_HEADER}.",
    ),
    Refused(
        "Columns",
        "a number that is too high",
        {"log.csv": GOOD},
        settings={"user_col": "1", "item_col": "2", "time_col": "4"},
        message="{source}: no column '4' among 1, 2, 3; name it with --time-col.",
    ),
    Refused(
        "Columns",
        "ties where there is no time",
        {"log.csv": LOG},
        settings={"time_col": "row", "tie_col": "time"},
        message="{source}: --tie-col: rows in time order have no ties.",
    ),
    Refused(
        "Columns",
        "text that orders events of one time",
        {"log.csv": "user,item,time,seq\n1,1,1,first\n"},
        settings={"tie_col": "seq"},
        message="{source}, line 2, column 'seq': 'first' is neither a number nor a date.",
    ),
    Refused(
        "Columns",
        "a name that stands twice",
        {"log.csv": "user,item,time,item\n1,2,3,4\n"},
        message="{source}: there are several columns 'item'.",
    ),
    Refused(
        "Columns",
        "too many columns",
        {"log.csv": lambda: (",".join(["a"] * 20_000) + "\n").encode()},
        message="{source}: 20,000 columns; at most 10,000 are read.",
    ),
    Refused(
        "Columns",
        "escape codes in a name",
        {"log.csv": "user\x1b[2J,item\n1,2\n"},
        message="{source}: no user column among user\\x1b[2J, item; name it with --user-col "
        f"{_WITHOUT_HEADER}.",
    ),
    # ------------------------------------------------------------------------------------- rows
    Refused(
        "Rows",
        "too few fields",
        {"log.csv": LOG + "1,2\n"},
        message="{source}, line 42: 2 fields where 3 are expected.",
    ),
    Refused(
        "Rows",
        "too many fields",
        {"log.csv": LOG + "1,2,3,4\n" + GOOD},
        message="{source}, line 42: 4 fields where 3 are expected.",
    ),
    Refused(
        "Rows",
        "too few fields, after line ends in quotes",
        {"log.csv": LOG + '1,"a\nb\nc",3\n1,2\n'},
        message="{source}, line 45: 2 fields where 3 are expected.",
    ),
    Refused(
        "Rows",
        "a quote that is not closed",
        {"log.csv": 'user,item,time\n"u, v","i",1\n' + '1,"a,3\n' + GOOD},
        message="{source}, line 3, column 'item': a quote is not closed; --quote none takes quotes for "
        "text.",
    ),
    Refused(
        "Rows",
        "quotes that do not pair up, around a value that is read",
        {"log.tsv": "user\titem\ttime\ttitle\n" + '"a"\t1\t2\t"Heroes\n"a"\t2\t3\tLow\n'},
        message="{source}, line 2, column 'user': a value in quotes, in a file whose quotes do not pair "
        "up; --quote double or --quote none says how to read it.",
    ),
    Refused(
        "Rows",
        "line ends of two kinds",
        {"log.csv": HEADER.replace("\n", "\r\n") + GOOD},
        message="{source}: line 2 ends otherwise than those before it (\\r\\n or \\n); write all line "
        "ends alike.",
    ),
    Refused(
        "Rows",
        "a line of 3 MB",
        {"log.csv": lambda: (LOG + "1," + "x" * 3_000_000 + ",3\n").encode()},
        message="{source}: line 42 is too long, more than 2,000,000 bytes.",
    ),
    Refused(
        "Rows",
        "a line of 40 MB",
        {"log.csv": lambda: (LOG + "1," + "7" * 40_000_000 + ",3\n").encode()},
        message="{source}: line 42 is too long, more than 2,000,000 bytes.",
    ),
    Refused(
        "Rows",
        "a first line without an end, packed",
        {"log.csv.gz": lambda: packed(bytes(30_000_000))},
        message="{source}: line 1 is too long, more than 2,000,000 bytes.",
    ),
    Refused(
        "Rows",
        "a field that is not UTF-8",
        {"log.csv": LOG.encode() + "1,é,3\n".encode("latin-1")},
        message="{source}, line 42, column 'item': not UTF-8 text.",
    ),
    # ----------------------------------------------------------------------------------- values
    Refused(
        "Values",
        "no user",
        {"log.csv": LOG + ",2,3\n"},
        message="{source}, line 42, column 'user': the value is missing.",
    ),
    Refused(
        "Values",
        "no item",
        {"log.csv.gz": packed(LOG + '1,"",3\n')},
        message="{source}, line 42, column 'item': the value is missing.",
    ),
    Refused(
        "Values",
        "no time",
        {"log.csv": LOG + "1,2,\n"},
        message="{source}, line 42, column 'time': the value is missing.",
    ),
    Refused(
        "Values",
        "no user, after line ends in quotes",
        {"log.csv": LOG + '1,"a\nb",3\n\n,2,3\n'},
        message="{source}, line 45, column 'user': the value is missing.",
    ),
    Refused(
        "Values",
        "a word for a time",
        {"log.csv": LOG + "1,2,yesterday\n" + GOOD},
        message="{source}, line 42, column 'time': 'yesterday' is neither a number nor a date.",
    ),
    Refused(
        "Values",
        "a word for the first time",
        {"log.csv": HEADER + "1,2,now\n" + GOOD},
        message="{source}, line 2, column 'time': 'now' is neither a number nor a date.",
    ),
    Refused(
        "Values",
        "NaN for a time",
        {"log.csv": LOG + "\n1,2,nan\n"},
        message="{source}, line 43, column 'time': 'nan' is neither a number nor a date.",
    ),
    Refused(
        "Values",
        "a day that there is not",
        {"log.csv": HEADER + "1,2,2024-02-28\n1,2,2024-02-30\n"},
        message="{source}, line 3, column 'time': '2024-02-30' is not a date.",
    ),
    Refused(
        "Values",
        "a whole number that a float cannot hold",
        {"log.csv": HEADER + "1,9007199254740993.0,1\n" + "1,2.0,3\n"},
        message="{source}, line 2, column 'item': '9007199254740993.0' is too large a fraction to be a "
        "whole number exactly.",
    ),
    # ------------------------------------------------------------------------- values of Parquet
    Refused(
        "Values in Parquet",
        "a missing value",
        {
            "log.parquet": parquet(
                lambda pa: columns(pa, user=lambda u, i, t: None if (u, t) == (0, 1) else u)
            )
        },
        message="{source}, row 2, column 'user': the value is missing.",
    ),
    Refused(
        "Values in Parquet",
        "NaN for an id",
        {
            "log.parquet": parquet(
                lambda pa: columns(pa, item=lambda u, i, t: float("nan") if u == 9 else 1.0)
            )
        },
        message="{source}, row 37, column 'item': the value is missing.",
    ),
    Refused(
        "Values in Parquet",
        "half a number for an id",
        {"log.parquet": parquet(lambda pa: columns(pa, item=lambda u, i, t: i + t / 2))},
        message="{source}, row 2, column 'item': '1.5' is not a whole number, so no id.",
    ),
    Refused(
        "Values in Parquet",
        "an infinite time",
        {
            "log.parquet": parquet(
                lambda pa: columns(pa, time=lambda u, i, t: float("inf") if u else 1.0)
            )
        },
        message="{source}, row 5, column 'time': 'inf' is neither a number nor a date.",
    ),
    Refused(
        "Values in Parquet",
        "lists for ids",
        {"log.parquet": parquet(lambda pa: columns(pa, item=lambda u, i, t: [i]))},
        message="{source}, column 'item': it holds lists, where whole numbers or text are needed; "
        "--item-col names another.",
    ),
    Refused(
        "Values in Parquet",
        "records for ids",
        {"log.parquet": parquet(lambda pa: columns(pa, user=lambda u, i, t: {"id": u}))},
        message="{source}, column 'user': it holds records, where whole numbers or text are needed; "
        "--user-col names another.",
    ),
    Refused(
        "Values in Parquet",
        "durations for times",
        {
            "log.parquet": parquet(
                lambda pa: columns(pa) | {"time": pa.array(range(40), pa.duration("s"))}
            )
        },
        message="{source}, column 'time': it holds durations, where numbers or dates are needed; "
        "--time-col names another.",
    ),
    Refused(
        "Values in Parquet",
        "truth values for ids",
        {"log.parquet": parquet(lambda pa: columns(pa, item=lambda u, i, t: t > 1))},
        message="{source}, column 'item': it holds truth values, where whole numbers or text are "
        "needed; --item-col names another.",
    ),
    # ------------------------------------------------------------------------------- JSON lines
    Refused(
        "JSON lines",
        "no object",
        {"log.jsonl": "[1, 2]\n"},
        message="{source}, line 1: not a JSON object.",
    ),
    Refused(
        "JSON lines",
        "an object that is not closed",
        {"log.jsonl": '{"user": 1, "item": 2, "time": 3}\n{"user": 1, "item": 2\n'},
        message="{source}, line 2: not a JSON object.",
    ),
    Refused(
        "JSON lines",
        "a number among objects",
        {"log.jsonl": '{"user": 1, "item": 2, "time": 3}\n5\n'},
        message="{source}, line 2: not a JSON object.",
    ),
    Refused(
        "JSON lines",
        "a record that lacks a key",
        {"log.jsonl": '{"user": 1, "item": 2, "time": 3}\n\n{"user": 1, "item": 2}\n'},
        message="{source}, line 3, column 'time': the value is missing.",
    ),
    Refused(
        "JSON lines",
        "a list for an id",
        {
            "log.jsonl": lines(
                {"user": 1, "item": 2, "time": 3}, {"user": 1, "item": [2], "time": 3}
            )
        },
        message="{source}, line 2, column 'item': it is a list, no id.",
    ),
    Refused(
        "JSON lines",
        "an object for an id",
        {"log.jsonl": lines({"user": {"id": 1}, "item": 2, "time": 3})},
        message="{source}, line 1, column 'user': it is an object, no id; name what stands inside, such "
        "as user.id.",
    ),
    Refused(
        "JSON lines",
        "NaN for an id",
        {"log.jsonl": '{"user": 1, "item": NaN, "time": 3}\n'},
        message="{source}, line 1, column 'item': 'NaN' is not a whole number, so no id.",
    ),
    Refused(
        "JSON lines",
        "too many keys",
        {"log.jsonl": lambda: (json.dumps({f"k{n}": 0 for n in range(20_000)}) + "\n").encode()},
        message="{source}: 20,000 keys; at most 10,000 are read.",
    ),
    Refused(
        "JSON lines",
        "brackets without end",
        {"log.jsonl": "[" * 100_000 + "\n"},
        message="{source}, line 1: not a JSON object.",
    ),
    # ---------------------------------------------------------------------- one user a line, text
    Refused(
        "Texts and lines",
        "what could be one user a line",
        {"log.txt": "".join(f"u{u} i{u} i{u + 1}\n" for u in range(9))},
        message="{source}: one user a line, it seems, the first line being 'u0 i0 i1'; --format "
        "user-lines reads it so, --format text as a text.",
    ),
    Refused(
        "Texts and lines",
        "what could be an event log without a header",
        {"log.txt": "".join(f"{u} {i} {t}\n" for u, i, t in events())},
        message="{source}: an event log without a header line, it seems, the first line being '0 0 0'; "
        "name its columns, such as --user-col 1 --item-col 2 --time-col 3, or read it as a text with "
        "--format text.",
    ),
    Refused(
        "Texts and lines",
        "what could be a table",
        {"log.txt": "name\tprice\tcolour\npear\t3\tgreen\nplum\t2\tblue\n"},
        message="{source}: a table of 3 columns, it seems, the first line being 'name price colour'; "
        "--format table reads it so (with --user-col, --item-col and --time-col), --format text as a "
        "text.",
    ),
    Refused(
        "Texts and lines",
        "what could be a table of two columns",
        {"log.txt": "anna\tstalker\nanna\tsolaris\nbela\tstalker\n"},
        message="{source}: a table of 2 columns, it seems, the first line being 'anna stalker'; --format table reads it so (with --user-col, --item-col and --time-col), --format text as a text.",
    ),
    Refused(
        "Texts and lines",
        "a user without an item",
        {"log.txt": "1 2 3\n2 3 4\n\n3\n"},
        settings={"format": "user-lines"},
        message="{source}, line 4: a user without an item.",
    ),
    Refused(
        "Texts and lines",
        "nothing in a text",
        {"notes.txt": ""},
        message="{source}: the file is empty.",
    ),
    Refused(
        "Texts and lines",
        "one line",
        {"notes.txt": "a b\n"},
        message="{source}: a split into three needs at least 3 lines, got 1.",
    ),
    Refused(
        "Texts and lines",
        "a line that is not UTF-8",
        {"notes.txt": b"a\n\xe9\n"},
        message="{source}, line 2: not UTF-8 text.",
    ),
    Refused(
        "Texts and lines",
        "a book on one line",
        {"notes.txt": lambda: b"word " * 500_000},
        message="{source}: line 1 is too long, more than 2,000,000 bytes.",
    ),
    # ----------------------------------------------------------------------------------- users
    Refused(
        "Users",
        "one user",
        {"log.csv": HEADER + "1,1,1\n1,2,2\n1,3,3\n"},
        message="{source}: a split into three needs at least 3 users, got 1 with 2 or more events.",
    ),
    Refused(
        "Users",
        "one event each",
        {"log.csv": HEADER + "1,1,1\n2,1,1\n3,1,1\n4,1,1\n"},
        message="{source}: a split into three needs at least 3 users, got 0 with 2 or more events.",
    ),
    Refused(
        "Users",
        "a core that is empty",
        {"log.csv": LOG},
        settings={"k_core": 50},
        message="{source}: a split into three needs at least 3 users, got 0 with 50 or more events.",
    ),
    Refused(
        "Users",
        "too few events to leave two out",
        {
            "log.csv": HEADER
            + "".join(f"{user},{item},1\n" for user in range(9) for item in range(3))
        },
        settings={"split": "leave-last-out"},
        message="{source}: no user has enough events for the train part.",
    ),
    # --------------------------------------------------------------------------------- settings
    Refused(
        "Settings",
        "a setting of texts",
        {"log.csv": LOG},
        settings={"vocabulary_size": 100},
        message="--vocabulary-size is for texts, and {source} is an event log.",
        error="SettingsError",
    ),
    Refused(
        "Settings",
        "a setting of event logs",
        {"notes.txt": SENTENCES},
        settings={"k_core": 5},
        message="--k-core is for event logs, and {source} is a text.",
        error="SettingsError",
    ),
    Refused(
        "Settings",
        "a quote of two characters",
        {"log.csv": LOG},
        settings={"quote": "<<"},
        message="--quote must be none or one character, got '<<'.",
        error="SettingsError",
    ),
    Refused(
        "Settings",
        "a delimiter that is a line end",
        {"log.csv": LOG},
        settings={"delimiter": "\n"},
        message="--delimiter must be one to four characters such as , or :: or tab, got '\\n'.",
        error="SettingsError",
    ),
]
