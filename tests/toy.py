"""A small log with structure: every user walks one of three circles of items."""

import signal
import subprocess
from time import monotonic

import numpy as np

from farzi.data import prepare
from farzi.distill import (
    Distiller,
    DistillSettings,
    InnerSettings,
    OuterSettings,
    StudentSettings,
    TeacherSettings,
)
from farzi.distill.starts.random import random_start
from farzi.evaluation import sequences_of
from farzi.metagrad import Adam

SMALL = DistillSettings(
    num_sequences=6,
    length=8,
    latent_dim=4,
    student=StudentSettings("sasrec", {"width": 8}),
    teachers=TeacherSettings(num_runs=1, max_epochs=6),
    inner=InnerSettings(steps=8, window=4, batch_size=3),
    outer=OuterSettings(
        steps=6,
        batch_size=8,
        num_students=2,
        students_per_step=2,
        validate_every=3,
        validation_seeds=1,
    ),
)

TINY_BY_NAME = {
    "num_sequences": 4,
    "length": 6,
    "latent_dim": 3,
    "student.width": 4,
    "teachers.num_runs": 1,
    "teachers.max_epochs": 3,
    "outer.steps": 1,
    "outer.num_students": 1,
    "outer.validation_seeds": 1,
    "outer.batch_size": 4,
    "inner.batch_size": 2,
    "inner.steps": 3,
    "inner.window": 2,
    "inner.stride": 0,
    "routine.max_steps": 20,
}


SMALL_EXPERIMENT = """\
[distill]
latent_dim = 4
student.name = "sasrec"
student.width = 8
teachers.num_runs = 1
teachers.max_epochs = 4
outer.steps = 2
outer.batch_size = 8
outer.num_students = 2
outer.students_per_step = 1
outer.validate_every = 2
outer.validation_seeds = 1
inner.steps = 8
inner.window = 4
inner.batch_size = 3

[compare]
lrs = [0.05]
batches = [8]
decays = [0.0]
dropouts = [0.0]
smoothings = [0.0]
patience = 2
max_steps = 30
max_epochs = 5
"""
"""Settings of an experiment in TOML that take a moment: the end of a file."""


def write_log(path, num_users=60, num_items=12, seed=0):
    generator = np.random.default_rng(seed)
    lines = ["user_id\titem_id\ttimestamp"]
    for user in range(num_users):
        step = 1 + user % 3
        item = int(generator.integers(num_items))
        for time in range(int(generator.integers(6, 14))):
            lines.append(f"u{user}\ti{item}\t{time}")
            item = (item + step) % num_items
    path.write_text("\n".join(lines) + "\n")
    return path


def toy_data(tmp_path, **kwargs):
    return prepare(str(write_log(tmp_path / "toy.tsv")), task="recommend", **kwargs)


TINY = DistillSettings(
    num_sequences=4,
    length=6,
    latent_dim=3,
    student=StudentSettings("sasrec", {"width": 4}),
    inner=InnerSettings(steps=6, window=3, batch_size=2, optimizer=Adam(lr=0.02, eps_root=1e-7)),
    outer=OuterSettings(
        steps=4, batch_size=6, num_students=2, students_per_step=1, validation_seeds=1
    ),
)


def distiller(tmp_path, settings=TINY, **kwargs):
    """An outer loop from drawn factors."""
    data = toy_data(tmp_path)
    student = settings.student.build(data.vocabulary.size, settings.length)
    start = random_start(4, 6, 3, data.vocabulary.size, labels=True, seed=0)
    return Distiller(
        student,
        settings,
        sequences_of(data, "train"),
        sequences_of(data, "validation"),
        start,
        **kwargs,
    )


def ended_by(running: subprocess.Popen[str], number: signal.Signals, code: int) -> str:
    """Send a command a signal; what it still says until it ends, soon and with that exit code."""
    sent = monotonic()
    running.send_signal(number)
    try:
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert monotonic() - sent < 30  # a second or two on a machine of its own
    assert running.returncode == code
    return said
