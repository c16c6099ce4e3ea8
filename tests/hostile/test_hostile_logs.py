"""Broken logs and texts: one line that names the file, the row and the column or flag."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_cases import GOOD, HEADER, LOG, READ, REFUSED, Refused
from farzi.data import prepare
from farzi.errors import DataError, FarziError


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.group}: {case.what}")
def test_says_in_one_line_what_is_wrong_and_where(case: Refused, tmp_path: Path) -> None:
    source = case.write(tmp_path)
    with pytest.raises(FarziError) as caught:
        prepare(source, **case.settings)
    assert str(caught.value) == case.message.format(source=source, folder=tmp_path)
    assert type(caught.value).__name__ == case.error
    assert len(case.message) < 400


def test_there_are_many_of_them() -> None:
    assert len(REFUSED) >= 40
    assert len({(case.group, case.what) for case in REFUSED}) == len(REFUSED)


BOMBS: dict[str, tuple[str, str]] = {
    "zeros in a table": ("log.csv.gz", "gzip.compress(bytes(400_000_000), 1)"),
    "zeros in JSON lines": ("log.jsonl.gz", "gzip.compress(bytes(400_000_000), 1)"),
    "zeros in a text": ("notes.txt.gz", "gzip.compress(bytes(400_000_000), 1)"),
    "blanks in a text": ("notes.txt.gz", "gzip.compress(b' ' * 400_000_000, 1)"),
    "a million columns": ("log.csv", "b','.join([b'a'] * 900_000) + b'\\n'"),
    "a line of 40 MB": ("log.csv", "b'user,item,time\\n' + b'7' * 40_000_000"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_is_bounded_by_the_first_line(bomb: str, tmp_path: Path) -> None:
    name, content = BOMBS[bomb]
    making = f"import gzip; open({str(tmp_path / name)!r}, 'wb').write({content})"
    subprocess.run([sys.executable, "-c", making], check=True, timeout=120)
    code = (
        "import duckdb, ibis, pyarrow, resource\n"
        "from farzi.data import prepare\n"
        "from farzi.errors import DataError\n"
        "ibis.duckdb.connect().disconnect()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = peak()\n"
        "try:\n"
        f"    prepare({str(tmp_path / name)!r})\n"
        "except DataError as error:\n"
        "    print(peak() - before, error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    grown_mib, message = child.stdout.split(maxsplit=1)
    assert message.startswith(str(tmp_path / name)), child.stderr
    assert int(grown_mib) < 200


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_devices_are_not_read(device: str) -> None:
    if not Path(device).is_char_device() and not Path(device).is_fifo():
        pytest.skip(f"{device} is no device here")
    with pytest.raises(DataError, match="a pipe or a device, where a regular file is needed"):
        prepare(device)


def test_the_first_of_many_wrong_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(LOG + "1,2,first\n" + GOOD * 50 + "1,2,second\n")
    with pytest.raises(DataError, match="line 42, column 'time': 'first'"):
        prepare(file)


def test_odd_ids_are_ids(tmp_path: Path) -> None:
    odd = ["<script>", "'; DROP TABLE raw; --", "ünï", "a\0b", "nan", "None", " ", "💿"]
    file = tmp_path / "log.csv"
    rows = [f'{user},"{item}",{time}\n' for user in range(4) for time, item in enumerate(odd)]
    file.write_text(HEADER + "".join(rows))
    data = prepare(file)
    assert data.vocabulary.ids == tuple(sorted(odd))
    assert data.vocabulary.decode(data.test[0]) == odd


def test_odd_column_names_are_names(tmp_path: Path) -> None:
    file = tmp_path / 'it\'s a "log".csv'
    file.write_text("a\"b,it's,x;y,X;Y\n" + "".join(f"{row.strip()},0\n" for row in GOOD.split()))
    data = prepare(file, user_col='a"b', item_col="it's", time_col="x;y")
    assert data.protocol["users"] == 10


# ----------------------------------------------------------------------------------- mutations

PIECES = [
    *(
        b'"',
        b'""',
        b"\n",
        b"\r\n",
        b"\r",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"nan",
        b"inf",
        b"-1",
    ),
    *(b"1e400", b"99999999999999999999", b"2024-01-01", b",", b"\t", b";", b"::", b" ", b"{", b"}"),
    *(b"[", b"null", b"\\", b"\xe2\x80\xa8", "é".encode(), b"\xc3", b"1.0", b"'", b"|"),
]


def mutated(draw: random.Random, content: bytes) -> bytes:
    """The content with a few bytes, pieces or lines changed."""
    for _ in range(draw.choice([1, 1, 2, 5])):
        start = draw.randrange(len(content) + 1)
        stop = min(len(content), start + draw.choice([1, 2, 5, 20, 100]))
        head, body, tail = content[:start], content[start:stop], content[stop:]
        lines = content.split(b"\n")
        content = draw.choice(
            [
                lambda: head + bytes([draw.randrange(256)]) + tail,  # noqa: B023
                lambda: head + tail,  # noqa: B023
                lambda: head + draw.choice(PIECES) + body + tail,  # noqa: B023
                lambda: head + body * draw.choice([2, 50]) + tail,  # noqa: B023
                lambda: head,  # noqa: B023
                lambda: head + draw.choice(PIECES) + tail,  # noqa: B023
                lambda: b"\n".join(draw.sample(lines, len(lines))),  # noqa: B023
                lambda: b"\n".join([*lines, draw.choice(lines)]),  # noqa: B023
            ]
        )()
    return content


def mutate_a_file(draw: random.Random, folder: Path) -> None:
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b" and draw.random() < 0.7:
        content = gzip.compress(mutated(draw, gzip.decompress(content)), mtime=0)
    else:
        content = mutated(draw, content)
    path.write_bytes(content)


def outcome(source: Path, settings: Mapping[str, Any]) -> str:
    """`read`, or `refused` in one line; a message that is none, or an exception otherwise."""
    try:
        data = prepare(source, **settings)
    except FarziError as error:
        message = str(error)
        fits = "\n" not in message and len(message) < 600 + len(str(source))
        return "refused" if fits else message
    tokens = np.concatenate([part.tokens for part in data.parts.values()])
    assert 0 <= tokens.min() <= tokens.max() < data.vocabulary.size
    if data.task == "recommend" and data.split_kind == "users":
        assert len(tokens) == data.protocol["events"]
    return "read"


@pytest.mark.parametrize("count", [60, pytest.param(5_000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_a_mutated_source_is_read_or_refused_in_one_line(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        draw = random.Random(seed)
        case = draw.choice(READ)
        folder = tmp_path / str(seed)
        source = case.write(folder)
        mutate_a_file(draw, folder)
        outcomes[outcome(source, case.settings)] += 1
        shutil.rmtree(folder)
    assert set(outcomes) == {"read", "refused"}
    assert outcomes["read"] > count / 10
    summarise(capsys, "mutated event files and texts", outcomes)


@pytest.mark.parametrize("count", [60, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_mutated_prepared_folder_is_loaded_or_refused_in_one_line(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "log.csv"
    source.write_text(LOG)
    prepare(source).save(tmp_path / "whole")
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        folder = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", folder)
        mutate_a_file(random.Random(seed), folder)
        outcomes[outcome(folder, {})] += 1
        shutil.rmtree(folder)
    assert set(outcomes) == {"read", "refused"}
    assert outcomes["refused"] > count / 10
    summarise(capsys, "mutated prepared folders", outcomes)


def summarise(capsys: pytest.CaptureFixture[str], what: str, outcomes: Counter[str]) -> None:
    total = sum(outcomes.values())
    with capsys.disabled():
        print(f"\n{what}: {total:,}/{total:,}: {dict(outcomes)}")
