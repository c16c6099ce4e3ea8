"""The project's own results: every cell that is kept is one that its experiment names."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from farzi.experiments.store import read_result
from farzi.training import LOST_NATS

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


def test_no_kept_run_came_back_from_where_a_falling_step_size_is_no_longer_awaited():
    runs = 0
    for path in RESULTS.glob("*/cells/score.*.json"):
        run = read_result(path)
        if (run["choice"] or {}).get("schedule") != "linear":
            continue
        losses = [loss for _, _, loss in run["training"]["curve"]]
        until_best = losses[: 1 + losses.index(min(losses))]
        lowest = np.minimum.accumulate(until_best)
        assert np.max(until_best - lowest) < LOST_NATS / 3, path.name
        runs += 1
    assert runs > 100


@pytest.mark.parametrize("name", PLANS)
def test_tokens_of_sentences_make_up_the_scores_of_a_text(name):
    """The plan says how many tokens each test sentence has, and cells what each one scored."""
    plan = json.loads((RESULTS / name / "plan.json").read_text())
    for group in plan["groups"]:
        assert bool(group.get("test_tokens")) == (group["task"] == "language")
        for cell in group["cells"]:
            path = RESULTS / name / "cells" / cell["file"]
            if group["task"] != "language" or cell["kind"] != "score" or not path.is_file():
                continue
            run = read_result(path)
            tokens = np.array(group["test_tokens"][str(cell["split_seed"])])
            loss, accuracy = (
                float(tokens @ np.array(run["per_user"][metric]) / tokens.sum())
                for metric in ("loss", "accuracy")
            )
            assert math.exp(loss) == pytest.approx(run["metrics"]["perplexity"], rel=1e-12)
            assert accuracy == pytest.approx(run["metrics"]["accuracy"], rel=1e-12)
