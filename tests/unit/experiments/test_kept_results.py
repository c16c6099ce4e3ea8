"""The project's own results: every cell that is kept is one that its experiment names."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[3] / "experiments/results"
PLANS = sorted(path.parent.name for path in RESULTS.glob("*/plan.json"))


def named_and_kept(folder: Path) -> tuple[set[str], set[str]]:
    plan = json.loads((folder / "plan.json").read_text())
    named = {cell["file"] for group in plan["groups"] for cell in group["cells"]}
    return named, {path.name for path in (folder / "cells").iterdir()}


@pytest.mark.parametrize("name", PLANS)
def test_no_cell_is_left_over_from_other_settings(name):
    named, kept = named_and_kept(RESULTS / name)
    assert kept
    assert sorted(kept - named) == [], "no table reads these: remove them"
