"""The loss curve of a small distillation, pinned: moving code must not move a number."""

import json

import pytest

from farzi.distill import distill
from toy import SMALL, toy_data

# As the outer loop gave them before it was split into objective, starts, teachers and folder.
OUTER = [2.661102294921875, 2.5483970642089844, 2.675592541694641]
OUTER += [2.6422470808029175, 2.7445032596588135, 2.739495277404785]
# The validation loss is that of every event, in windows.
FRESH = {0: 2.709981744939631, 3: 2.710961838202043, 6: 2.710913762179288}


def test_the_loss_curve_is_what_it_was(tmp_path):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # To the bit on one processor; another rounds its products otherwise.
    outer = [record["outer_loss"] for record in records if "outer_loss" in record]
    assert outer == pytest.approx(OUTER, rel=1e-4)
    fresh = {record["step"]: record["fresh_loss"] for record in records if "fresh_loss" in record}
    assert fresh == pytest.approx(FRESH, rel=1e-4)
