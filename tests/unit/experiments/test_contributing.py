"""CONTRIBUTING's section on rows, followed to the letter."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from farzi.experiments import rows
from farzi.experiments.compare import CompareSettings, compare
from farzi.experiments.splits import Split
from farzi.models import build_student
from toy import toy_data

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"
STUDENT = {"name": "sasrec", "num_tokens": 12, "context_length": 8, "width": 8}


@pytest.fixture
def registered(monkeypatch):
    """The file as `farzi.experiments.rows.tail_soft`, and the line in the registry's source."""
    section = CONTRIBUTING.read_text().split("## Adding a row")[1].split("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert file.count("\n") <= 20
    assert line.count("\n") == 1
    module = types.ModuleType("farzi.experiments.rows.tail_soft")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, "tail_soft.py", "exec"), module.__dict__)
    source = Path(rows.__file__).read_text()
    mark = "ROWS = {\n"
    assert source.count(mark) == 1
    registry = types.ModuleType("farzi.experiments.rows")
    exec(compile(source.replace(mark, mark + line), "__init__.py", "exec"), registry.__dict__)
    (added,) = set(registry.ROWS) - set(rows.ROWS)
    monkeypatch.setitem(rows.ROWS, added, registry.ROWS[added])
    assert importlib.import_module(module.__name__) is module
    return added


def test_the_row_is_tuned_scored_and_compared(registered, tmp_path):
    student = build_student(STUDENT)
    teachers = (student.init(torch.Generator().manual_seed(0)),)
    split = Split(toy_data(tmp_path), STUDENT, 6, 3, teachers=teachers)
    quick = CompareSettings(
        rows=("random", registered),
        seeds=1,
        lrs=(0.05,),
        decays=(0.0,),
        dropouts=(0.0,),
        smoothings=(0.0,),
        max_steps=30,
    )
    result = compare([split], quick)
    row = result.row(registered)
    assert row.sequences == 6
    assert row.tokens < result.row("random").tokens
    assert row.num_runs == 1
