"""Downloads of known datasets, from a server of our own: checked, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import farzi
from farzi.cli import main
from farzi.data import prepare
from farzi.data.columns import Columns
from farzi.data.formats import Layout
from farzi.data.sources import SOURCES, Copy, Download, Source
from farzi.errors import DataError

pytest.importorskip("pooch", reason="the extra `fetch` is not installed")

REAL = os.environ.get("FARZI_DATA_ROOT")  # before the tests look elsewhere

TABLE = "".join(f"u{n // 9}\tfilm{(n + n // 9) % 7}\t{n}\n" for n in range(180)).encode()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FARZI_DATA_ROOT", raising=False)
    return tmp_path / "cache/farzi/data"


@pytest.fixture
def films(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Source:
    """A known source whose publisher is the server."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("films/u.data", TABLE)
        archive.writestr("films/README", "Be kind.")
        archive.writestr("../evil", "never unpacked")
    folder, address = served
    (folder / "films.zip").write_bytes(packed.getvalue())
    source = Source(
        name="films",
        title="films that users saw",
        task="recommend",
        licence="be kind",
        citation="us",
        size="4x8",
        context_length=8,
        copies=(
            Copy(
                ("films/u.data",),
                Layout("\t", "", ("user", "item", "time")),
                Columns("user", "item", "time"),
                (hashlib.sha256(TABLE).hexdigest(),),
            ),
        ),
        downloads=(
            Download(
                f"{address}/films.zip",
                "md5:" + hashlib.md5(packed.getvalue()).hexdigest(),
                {name: name for name in ("films/u.data", "films/README")},
            ),
        ),
    )
    monkeypatch.setitem(SOURCES, "films", source)
    return source


def test_fetched_it_is_found_by_its_name(
    films: Source, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="`farzi fetch films` downloads it"):
        prepare("films")
    assert main(["fetch", "films"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(cache / "films/u.data")
    assert "terms: be kind" in told.err
    data = prepare("films")
    assert data.protocol["as_published"] is True
    files = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    assert files == ["films/README", "films/u.data"]


def test_what_is_there_is_not_downloaded_again(
    films: Source, served: tuple[Path, str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assert farzi.fetch("films", root) == [root / "films/u.data"]
    (served[0] / "films.zip").unlink()
    assert farzi.fetch("films", root) == [root / "films/u.data"]
    with pytest.raises(DataError, match=r"films: http.*films.zip answered 404"):
        farzi.fetch("films", root, overwrite=True)
    assert (root / "films/u.data").read_bytes() == TABLE


def test_other_bytes_are_refused_and_nothing_is_kept(
    films: Source, served: tuple[Path, str], tmp_path: Path
) -> None:
    (served[0] / "films.zip").write_bytes(b"other")
    with pytest.raises(DataError, match="gave other bytes than were published"):
        farzi.fetch("films", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stdlib-calls", "nothing to download"),
        ("netflix", "withdrawn"),
        ("ml-100", "is no known source, such as ml-100k"),
    ],
)
def test_what_cannot_be_fetched_is_said(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", name]) == 1
    assert said in capsys.readouterr().err


def test_no_server_is_one_line(films: Source, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "films", "--mirror", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9/films.zip cannot be reached" in capsys.readouterr().err


@pytest.mark.skipif(not REAL, reason="FARZI_DATA_ROOT names no folder with the real datasets")
@pytest.mark.parametrize("name", ["magazine", "ptb"])
def test_the_published_bytes_pass(name: str, served: tuple[Path, str], tmp_path: Path) -> None:
    """The real files, from a server of ours, against the checksums of their publishers."""
    data_root = Path(str(REAL))
    for download in SOURCES[name].downloads:
        file = download.url.rpartition("/")[2]
        content = gzip.decompress((data_root / f"{file}.gz").read_bytes())
        if download.carriage_returns:
            content = content.replace(b"\n", b"\r\n")
        (served[0] / file).write_bytes(content)
    files = farzi.fetch(name, tmp_path / "root", mirror=served[1])
    content = b"".join(path.read_bytes() for path in files)
    known = [gzip.decompress((data_root / f"{path.name}.gz").read_bytes()) for path in files]
    assert content == b"".join(known)


def test_every_download_is_checked_and_feeds_a_copy() -> None:
    named = [source for source in SOURCES.values() if source.downloads]
    assert {source.name for source in named} == {"ml-100k", "ml-1m", "magazine", "ptb"}
    for source in named:
        had = set()
        for download in source.downloads:
            kind, _, digest = download.checksum.partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind]
            had |= set(download.members.values()) or {download.url.rpartition("/")[2]}
        assert any(set(copy.files) <= had for copy in source.copies)


def test_sources_says_what_can_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for name in ("ml-100k", "ptb"):
        assert f"no: farzi fetch {name}" in page
    assert "no: netflix.parquet" in page
