"""Where it breaks: made-up sources at the edge of what people have, through the whole pipeline.

    python experiments/limits.py [--cases zipf-3 one-item ...]

writes experiments/results/limits.json. Every case is prepared, distilled, and trained and scored
beside full data and the most popular items, in a process of its own: seconds of processor time of
each stage, and the largest memory it had. What is refused is kept with its message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Log = tuple[np.ndarray, np.ndarray]  # the user and the item of every event, in time order
RESULTS = Path(__file__).parent / "results" / "limits.json"
SMALL = {
    "num_sequences": 10,
    "length": 50,
    "latent_dim": 32,
    "teachers.num_runs": 2,
    "teachers.max_epochs": 20,
    "outer.steps": 0,
    "outer.validation_seeds": 1,
}


@dataclass(frozen=True)
class Limit:
    """One source.

    Args:
        what: it in words.
        make: its events, from a generator of random numbers.
        settings: of the distillation, over `SMALL`.
        scored: whether full data are trained too and everything is scored.
    """

    what: str
    make: Callable[[np.random.Generator], Log]
    settings: dict[str, Any] = field(default_factory=dict)
    scored: bool = True


def walks(
    generator: np.random.Generator, users: int, length: int, items: int, exponent: float
) -> Log:
    """Users who take the item after their last half of the time, and draw by Zipf's law else."""
    popularity = np.arange(1, items + 1, dtype=float) ** -exponent
    drawn = generator.choice(items, size=(users, length), p=popularity / popularity.sum())
    goes_on = generator.random((users, length)) < 0.5
    for place in range(1, length):
        after = (drawn[:, place - 1] + 1) % items
        drawn[:, place] = np.where(goes_on[:, place], after, drawn[:, place])
    return np.repeat(np.arange(users), length), drawn.ravel()


def mostly_one(generator: np.random.Generator) -> Log:
    """99 % of all events are of one item."""
    users, items = walks(generator, 1000, 30, 500, 1.0)
    return users, np.where(generator.random(len(items)) < 0.99, 0, items)


def half_noise(generator: np.random.Generator) -> Log:
    """Half of the events are of any item."""
    users, items = walks(generator, 1000, 30, 500, 1.0)
    noise = generator.integers(500, size=len(items))
    return users, np.where(generator.random(len(items)) < 0.5, noise, items)


def alike(generator: np.random.Generator) -> Log:
    """Every user has the same history."""
    return np.repeat(np.arange(1000), 30), np.tile(generator.permutation(30), 1000)


def million(generator: np.random.Generator) -> Log:
    """A million items, each at least once."""
    items = np.concatenate(
        [generator.permutation(1_000_000), generator.integers(1000, size=200_000)]
    )
    return np.repeat(np.arange(len(items) // 60), 60), items[: len(items) // 60 * 60]


LIMITS = {
    **{
        f"zipf-{exponent:g}": Limit(
            f"popularity by Zipf's law, exponent {exponent:g}",
            lambda generator, exponent=exponent: walks(generator, 1000, 30, 500, exponent),
        )
        for exponent in (0.0, 1.0, 2.0, 3.0)
    },
    "one-item": Limit("99 % of all events are of one item", mostly_one),
    "half-noise": Limit("half of all events are noise", half_noise),
    "alike": Limit("all users have the same history", alike),
    "one-user": Limit(
        "a single user", lambda generator: walks(generator, 1, 1000, 50, 1.0), scored=False
    ),
    "long": Limit(
        "histories of 10,000 events",
        lambda generator: walks(generator, 40, 10_000, 500, 1.0),
    ),
    "million": Limit(
        "a vocabulary of 1,000,000 items",
        million,
        {
            "num_sequences": 4,
            "length": 20,
            "latent_dim": 8,
            "student.width": 8,
            "start": "random",
            "outer.steps": 2,
            "outer.num_students": 2,
            "outer.students_per_step": 1,
            "outer.batch_size": 8,
            "outer.validation_size": 8,
            "inner.steps": 4,
            "inner.window": 2,
        },
        scored=False,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--here", action="store_true", help="run one case in this process")
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(run(LIMITS[asked.cases[0]])))
        return
    from farzi.data.files import write_text

    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in asked.cases:
        command = [sys.executable, __file__, "--here", "--cases", name]
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        last = done.stdout.strip().splitlines()[-1:] or ["null"]
        rows[name] = json.loads(last[0]) or {
            "what": LIMITS[name].what,
            "refused": f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}",
        }
        print(name, json.dumps(rows[name]), flush=True)
        ordered = {name: rows[name] for name in LIMITS if name in rows}
        write_text(RESULTS, json.dumps({"settings": SMALL, "rows": ordered}, indent=2) + "\n")


def run(limit: Limit) -> dict[str, Any]:
    """One case: what came out, what it took, or why it was refused."""
    import torch

    import farzi
    from farzi.errors import FarziError
    from farzi.evaluation import most_popular

    torch.set_num_threads(1)
    row: dict[str, Any] = {"what": limit.what, "seconds": {}}

    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        row["seconds"][name] = round(time.process_time() - began, 2)

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log.parquet")
        row |= write(limit.make(np.random.default_rng(0)), log)
        try:
            with stage("prepare"):
                data = farzi.prepare(log, user_col="user", item_col="item", time_col="time")
            row["items"] = data.vocabulary.size
            with stage("distil"):
                farzi.distill(data, Path(folder, "run"), {**SMALL, **limit.settings})
            if limit.scored:
                with stage("train on all"):
                    full = farzi.train(data, width=32, context_length=50, smoothing=0.1)
                with stage("train on ten rows"):
                    few = farzi.train(Path(folder, "run"), on=data)
                with stage("score"):
                    scores = {
                        "full": farzi.evaluate(full, on=data),
                        "few": farzi.evaluate(few, on=data),
                    }
                popular = most_popular(data, "test").metrics
                row["nDCG@10"] = {
                    "full": scores["full"]["nDCG@10"],
                    "few": scores["few"]["nDCG@10"],
                    "most popular": popular["nDCG@10"],
                }
                row["loss"] = {name: each["loss"] for name, each in scores.items()}
                row["loss"]["uniform"] = math.log(data.vocabulary.size)
        except FarziError as error:
            row["refused"] = str(error).replace(str(log), "log.parquet")
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def write(log: Log, path: Path) -> dict[str, int]:
    """Write a log as Parquet; how large it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items = log
    times = np.arange(len(users))
    pq.write_table(pa.table({"user": users, "item": items, "time": times}), path)
    return {"events": len(users), "users": len(np.unique(users)), "items": len(np.unique(items))}


if __name__ == "__main__":
    main()
