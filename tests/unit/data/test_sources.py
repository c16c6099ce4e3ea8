from __future__ import annotations

from pathlib import Path

import pytest

from farzi.data import SOURCES, available
from farzi.data.sources import find, resolve
from farzi.errors import DataError


def test_embedded_sources_are_always_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FARZI_DATA_ROOT", raising=False)
    at_hand = {name for name, here in available().items() if here}
    assert (
        at_hand
        == {"stdlib-calls", "stdlib-docs"}
        == {name for name, here in available(tmp_path).items() if here}
    )


def test_files_are_found_packed_or_not_and_in_their_publishers_folder(tmp_path: Path) -> None:
    source = SOURCES["ml-100k"]
    published = tmp_path / "ml-100k" / "u.data"
    published.parent.mkdir()
    published.touch()
    assert find(source, tmp_path)[1] == [published]
    packed = tmp_path / "ml-100k.u.data.gz"
    packed.touch()
    assert find(source, tmp_path)[1] == [packed]
    assert available(tmp_path)["ml-100k"]


def test_the_root_is_read_from_the_environment_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Magazine_Subscriptions.csv").touch()
    monkeypatch.setenv("FARZI_DATA_ROOT", str(tmp_path))
    assert available()["magazine"]
    monkeypatch.delenv("FARZI_DATA_ROOT")
    with pytest.raises(DataError, match="--data-root or FARZI_DATA_ROOT"):
        find(SOURCES["magazine"], None)


def test_a_part_of_a_dataset_is_not_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").touch()
    with pytest.raises(DataError, match=r"ptb: ptb\.train\.txt, ptb\.valid\.txt, ptb\.test\.txt"):
        find(SOURCES["ptb"], tmp_path)


def test_says_what_a_wrong_name_may_have_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-100: neither .* such as ml-100k"):
        resolve("ml-100")
    with pytest.raises(DataError, match=r"log\.csv: there is no such file"):
        resolve(str(tmp_path / "log.csv"))
    assert resolve(str(tmp_path)) == tmp_path
