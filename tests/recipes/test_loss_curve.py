"""The loss curve of a small distillation, pinned: moving code must not move a number."""

import json

import pytest

from farzi.distill import distill
from toy import SMALL, toy_data

# The same bits came out of the outer loop before and after it was split into objective, starts,
# teachers and folder; these are from after teachers got a random stream of their own.
OUTER = [2.5391982793807983, 2.487419605255127, 2.656747817993164]
OUTER += [2.6538296937942505, 2.708515167236328, 2.6915241479873657]
# The validation loss is that of every event, in windows.
FRESH = {0: 2.691026369008151, 3: 2.6910359209234063, 6: 2.6906922968951137}


def test_the_loss_curve_is_what_it_was(tmp_path):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # To the bit on one processor; another rounds its products otherwise.
    outer = [record["outer_loss"] for record in records if "outer_loss" in record]
    assert outer == pytest.approx(OUTER, rel=1e-4)
    fresh = {record["step"]: record["fresh_loss"] for record in records if "fresh_loss" in record}
    assert fresh == pytest.approx(FRESH, rel=1e-4)
