"""Data weights through 64 and 256 steps: the engine, autograd, torchopt and Bergson.

    python benchmarks/bench_data_weights.py        writes benchmarks/results/data_weights.json

The task is one that Bergson can do (`benchmarks/adapters/data_weights.py`); all run the same plain
operations. As in `bench_engines.py` each engine has a process of its own, all are timed in turns,
results are written after every round, and it ends when its minutes are over. Autograd and torchopt
keep every graph and are left out at 256 steps.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_engines import WEIGHTS, Row, measure, share, write

RESULTS = Path(__file__).parent / "results" / "data_weights.json"
ENGINES = (
    "farzi Stored",
    "farzi Reversible",
    "farzi Checkpointed",
    "autograd",
    "torchopt",
    "bergson",
    "farzi Stored, compiled",  # last: it has what the others leave of the minutes for getting ready
)
KEEP_EVERYTHING = ("autograd", "torchopt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--minutes", type=float, default=3.0, help="all of it ends after these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for done, steps in enumerate(sorted(options.steps)):
            new = [
                Row(engine, "hard tokens", steps)
                for engine in options.engines
                if steps <= 64 or engine not in KEEP_EVERYTHING
            ]
            rows += new
            end = share(until, len(options.steps) - done)
            keep = functools.partial(write, options.out, rows, options)
            measure(new, options, end, Path(folder), keep, WEIGHTS)


if __name__ == "__main__":
    main()
