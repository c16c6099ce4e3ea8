"""The Netflix Prize as it was published, in made-up ratings: blocks of one film each."""

import gzip
from dataclasses import replace

import pytest

from farzi.data import prepare
from farzi.data.sources import SOURCES
from farzi.errors import DataError

USERS, ITEMS = range(100, 140), range(1, 8)


def rated(user, item):
    return (user + item) % 3 > 0


def date(user, item):
    return f"2005-{1 + (user * 7 + item * 5) % 12:02d}-{1 + (user + item) % 28:02d}"


def block(item):
    lines = [f"{user},{1 + user % 5},{date(user, item)}" for user in USERS if rated(user, item)]
    return "\n".join([f"{item}:", *lines]) + "\n"


def table():
    rows = [
        f"{user},{item},{date(user, item)}" for item in ITEMS for user in USERS if rated(user, item)
    ]
    return "user_id,item_id,timestamp\n" + "\n".join(rows) + "\n"


def write(root, form):
    """The same ratings in one of the forms that people have."""
    folder = root / "netflix"
    folder.mkdir()
    if form == "table":
        (root / "netflix.csv").write_text(table())
    elif form == "combined":
        for number, items in enumerate(([1, 2], [3], [4, 5], [6, 7]), 1):
            text = "".join(map(block, items))
            (folder / f"combined_data_{number}.txt").write_text(text)
    elif form == "packed":
        for number, items in enumerate(([1, 2], [3], [4, 5], [6, 7]), 1):
            text = "\r\n".join("".join(map(block, items)).splitlines())
            (folder / f"combined_data_{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return root


@pytest.mark.parametrize("form", ["combined", "packed"])
def test_the_published_form_is_that_of_a_table(tmp_path, form):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = prepare("netflix", data_root=write(tmp_path / "a", "table"))
    found = prepare("netflix", data_root=write(tmp_path / "b", form))
    assert found.parts == expected.parts
    assert list(found.vocabulary.ids) == list(expected.vocabulary.ids)
    assert found.protocol["events"] == table().count("\n") - 1
    assert found.fingerprint != expected.fingerprint


def test_a_file_for_each_film(tmp_path, monkeypatch):
    known = SOURCES["netflix"]
    (films,) = [copy for copy in known.copies if "training_set" in copy.files[0]]
    assert len(films.files) == 17_770
    assert films.files[-1] == "netflix/training_set/mv_0017770.txt"
    few = replace(films, files=films.files[: len(ITEMS)])
    monkeypatch.setitem(SOURCES, "netflix", replace(known, copies=(few,)))
    folder = tmp_path / "netflix" / "training_set"
    folder.mkdir(parents=True)
    for item in ITEMS:
        (folder / f"mv_{item:07d}.txt").write_text(block(item))
    found = prepare("netflix", data_root=tmp_path)
    assert found.protocol["events"] == table().count("\n") - 1


@pytest.mark.parametrize(
    ("number", "text", "says"),
    [
        (
            2,
            "3:\n\n100,4,2005-01-01\n101,five,2005-01-02\n",
            r"_2\.txt, line 4: neither `ITEM:` nor",
        ),
        (2, "100,4,2005-01-01\n3:\n", r"_2\.txt, line 1: no line `ITEM:` stands above it\."),
        (1, "100,4,2005-01-01\n3:\n", r"_1\.txt, line 1: no line `ITEM:` stands above it\."),
        (
            3,
            "4:\n\n100,4,2005-02-31\n",
            r"_3\.txt, line 3, column 'time': '2005-02-31' is not a date",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, number, text, says):
    root = write(tmp_path, "combined")
    (root / "netflix" / f"combined_data_{number}.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        prepare("netflix", data_root=root)


def test_what_is_looked_for_is_said(tmp_path):
    with pytest.raises(
        DataError, match=r"netflix\.parquet or .*mv_0017770\.txt .* is not in the data root"
    ):
        prepare("netflix", data_root=tmp_path)
