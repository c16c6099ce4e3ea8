"""One student's outer loop on 50x50 rows: what several benchmarks time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from farzi.cli._common import keep_freed_memory
from farzi.data import prepare
from farzi.distill import Distiller, DistillSettings
from farzi.distill.starts.random import random_start
from farzi.distill.world import ALONE, World
from farzi.evaluation import sequences_of


def source_here() -> str:
    """MovieLens-100k where FARZI_DATA_ROOT has it, otherwise the embedded stdlib-calls."""
    root = os.environ.get("FARZI_DATA_ROOT")
    return "ml-100k" if root and any(Path(root).glob("ml-100k*")) else "stdlib-calls"


def begun(
    source: str, threads: int, settings: dict[str, Any], world: World = ALONE
) -> tuple[Distiller, Any]:
    """A distiller of one student and 25 inner steps from a random start, and its first state."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    data = prepare(source)
    chosen = DistillSettings().with_values(
        {
            "outer.num_students": 1,
            "outer.validation_seeds": 1,
            "inner.steps": 25,
            "start": "random",
            **settings,
        }
    )
    student = chosen.student.build(data.vocabulary.size, chosen.length)
    start = random_start(50, 50, chosen.latent_dim, data.vocabulary.size, labels=True, seed=0)
    train, looked = sequences_of(data, "train"), sequences_of(data, "validation")
    loop = Distiller(student, chosen, train, looked, start, world=world)
    return loop, loop.begin()
