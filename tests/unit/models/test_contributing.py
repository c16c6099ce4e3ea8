"""CONTRIBUTING's section on students, followed to the letter."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import farzi.models
from farzi.data.sequences import Sequences
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, Direct, Stored, metagradient
from farzi.models import sequence_loss, student_from
from farzi.training import RealBatches, TrainSettings, train

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"
MARK = "# A student is one line here"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as `farzi.models.bag`, and the line in the registry's source."""
    section = CONTRIBUTING.read_text().split("## Adding a student")[1].split("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert line.count("\n") == 1
    module = types.ModuleType("farzi.models.bag")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, "bag.py", "exec"), module.__dict__)
    source = Path(farzi.models.__file__).read_text()
    assert source.count(MARK) == 1
    registry = types.ModuleType("farzi.models")
    monkeypatch.setitem(sys.modules, "registry", registry)
    exec(compile(source.replace(MARK, line + MARK), "__init__.py", "exec"), registry.__dict__)
    assert set(registry.STUDENTS) == {*farzi.models.STUDENTS, "bag"}
    monkeypatch.setitem(farzi.models.STUDENTS, "bag", registry.STUDENTS["bag"])


def test_the_student_trains_and_is_differentiated_through(registered: None) -> None:
    student = student_from("bag:width=8", {"num_tokens": 6, "context_length": 8})
    assert student.settings()["name"] == "bag"
    circle = Sequences.from_lists([[start, 1, start, 1, start, 1] for start in (2, 3, 4, 5)] * 3)

    def loss(params: Any) -> float:
        return validation_loss(student, params, circle)

    fresh = loss(student.init(torch.Generator().manual_seed(0)))
    trained = train(student, RealBatches(circle, 8, 4), TrainSettings(max_steps=60), loss)
    assert trained.loss < 0.7 * fresh

    soft = torch.randn(3, 5, 6, dtype=torch.float64).softmax(-1)
    hard = torch.arange(10).view(2, 5) % 6
    params = student.init(torch.Generator().manual_seed(0), torch.float64)
    direct, stored = (
        metagradient(
            lambda params, meta, step: sequence_loss(student, params, meta["tokens"]),
            lambda params, meta: sequence_loss(student, params, hard),
            params,
            {"tokens": soft},
            steps=5,
            optimizer=Adam(lr=0.02, eps_root=1e-9),
            adjoint=adjoint,
        ).meta_grads["tokens"]
        for adjoint in (Direct(), Stored())
    )
    assert direct.abs().max() > 1e-6
    torch.testing.assert_close(stored, direct, rtol=1e-9, atol=1e-14)
