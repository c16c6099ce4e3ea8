"""Outer steps a second of the distiller on MovieLens-100k, 50x50, with and without the engine.

    python benchmarks/bench_outer_loop.py       writes benchmarks/results/outer_loop.json

Each way runs in processes of its own, in turns: autograd through the window (`Direct`) and `Stored`
in plain torch operations, and `Stored` with the compiled kernels. An outer step differentiates a
window of 25 inner steps of one student; the figure is the median over passes. Without the dataset
(FARZI_DATA_ROOT) it runs on the embedded stdlib-calls, and says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_engines import processor, versions, write_json
from benchmarks.outer_loop import source_here

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results" / "outer_loop.json"
WAYS = {
    "autograd, plain torch": ("Direct", "0"),
    "Stored, plain torch": ("Stored", "0"),
    "Stored, kernels": ("Stored", "1"),
}
CHILD = """
import sys, time
from benchmarks.outer_loop import begun
loop, state = begun(sys.argv[3], int(sys.argv[2]), {"inner.adjoint": sys.argv[1].lower()})
loop.step(state)
began = time.perf_counter()
for _ in range(3):
    _, record = loop.step(state)
print(3 / (time.perf_counter() - began), record["outer_loss"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    source = source_here()
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses = {}
    for _ in range(options.passes):
        for way, (adjoint, native) in WAYS.items():
            command = [sys.executable, "-c", CHILD, adjoint, str(options.threads), source]
            settings = {"FARZI_NATIVE": native, "OMP_NUM_THREADS": str(options.threads)}
            run = subprocess.run(
                command,
                env={**os.environ, **settings},
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            speed, loss = map(float, run.stdout.split())
            speeds[way].append(round(speed, 4))
            losses[way] = loss
            print(f"{way}: {speed:.3f} outer steps a second, loss {loss:.6f}", flush=True)
    rows = [
        {
            "way": way,
            "outer_steps_per_s": statistics.median(values),
            "all": values,
            "outer_loss": losses[way],
        }
        for way, values in speeds.items()
    ]
    record = {
        "source": source,
        "hardware": f"{os.cpu_count()} cores, {processor()}",
        "threads": options.threads,
        "versions": versions(),
        "rows": rows,
    }
    write_json(RESULTS, record)


if __name__ == "__main__":
    main()
