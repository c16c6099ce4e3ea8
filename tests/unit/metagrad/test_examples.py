"""The engine's examples run, and find what they say they find."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"engine_{name}.py"))


def test_data_weights_find_the_wrong_labels() -> None:
    done = run("data_weights")
    assert done["found"] > 0.9
    assert done["history"][-1] > done["history"][0] + 0.05


def test_a_learned_schedule_trains_further() -> None:
    done = run("schedule")
    assert done["best"] < 0.5 * done["history"][0]
    assert done["log_rates"].std() > 0.01


def test_maml_learns_new_tasks() -> None:
    done = run("maml")
    assert done["after"] < 0.6 * done["before"]


def test_six_distilled_points_do_what_all_do() -> None:
    done = run("distillation")
    assert done["distilled"] > done["everything"] - 0.05
    assert done["distilled"] > done["accuracy"](done["real"]) + 0.05


def test_each_input_gets_its_own_regularisation() -> None:
    done = run("regularisation")
    assert done["each_its_own"] < 0.6 * done["one_for_all"]


def test_influence_is_what_retraining_shows() -> None:
    assert run("influence")["correlation"] > 0.85


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("engine_*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60
