"""Every kind of source that is read, and what is made of it (`tests/data_cases.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_cases import READ, Read
from farzi.data import prepare
from farzi.data.preparation import arguments_of


@pytest.mark.parametrize("case", READ, ids=lambda case: f"{case.group}: {case.what}")
def test_what_is_made_of_a_source(case: Read, tmp_path: Path) -> None:
    source = case.write(tmp_path)
    data = prepare(source, **case.settings)
    assert {name: data.protocol[name] for name in case.made} == case.made
    said = (*data.notes, *data.warnings)
    assert [line for line in case.said if line not in said] == [], said
    again = prepare(source, **arguments_of(data.task, data.seen_items, data.protocol))
    assert again.parts == data.parts
    assert again.protocol == data.protocol
