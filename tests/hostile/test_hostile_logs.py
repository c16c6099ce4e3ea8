"""Broken logs and texts: one line that names the file, the row and the column or flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_cases import GOOD, HEADER, LOG, REFUSED, Refused
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
