"""CONTRIBUTING's twenty lines for an objective and a start, followed to the letter."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from farzi.cli import main
from farzi.distill import distill
from farzi.distill.objectives import OBJECTIVES
from farzi.distill.starts import STARTS
from toy import SMALL, toy_data

PAGE = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def follow(monkeypatch, heading, kinds, name, class_name):
    section = PAGE.partition(f"## {heading}\n")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    module = ModuleType(f"contributed_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(kinds.places, name, f"{module.__name__}:{class_name}")


@pytest.mark.parametrize(
    ("heading", "kinds", "name", "class_name", "choice"),
    [
        ("Adding an objective", OBJECTIVES, "sharp_matching", "SharpMatching", "objective"),
        ("Adding a start", STARTS, "even", "EvenStart", "start"),
    ],
)
def test_twenty_lines_are_enough(
    tmp_path, monkeypatch, capsys, heading, kinds, name, class_name, choice
):
    follow(monkeypatch, heading, kinds, name, class_name)
    data = toy_data(tmp_path)
    for run, asked in (("first", {choice: name}), ("second", {choice: "random"})):
        if kinds is OBJECTIVES and run == "second":
            asked = {choice: "meta_matching"}
        distill(data, tmp_path / run, SMALL.with_values({"outer.steps": 2, **asked}))
    records = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("first", "second")
    ]
    assert records[0][1]["outer_loss"] != records[1][1]["outer_loss"]
    command = [
        "distill",
        str(tmp_path / "toy.tsv"),
        "--out",
        str(tmp_path / "new"),
        "--size",
        "6x8",
    ]
    command += ["--task", "recommend", f"--{choice}", name, "--dry-run", "-q"]
    assert main(command) == 0
    assert f"{choice}.name = {name}" in capsys.readouterr().out
    own = {"objective": "sharpness", "start": "noise"}[choice]
    assert main([*command, "--set", f"{choice}.{own}s=1"]) == 2
    assert f"did you mean {choice}.{own}" in capsys.readouterr().err
