"""What two processes gain over one: students a second that the outer loop differentiates.

    python benchmarks/bench_ranks.py        writes benchmarks/results/ranks.json

One process and two of `torchrun`, each with one thread and one student, take the same outer steps
on windows of 25 inner steps, in turns. Two processes that lost nothing would see twice as many
students a second; the efficiency is the share of that. A pass counts the clock of its slowest
process from a barrier on, with the exchange of gradients in it. Without MovieLens-100k
(FARZI_DATA_ROOT) it runs on the embedded stdlib-calls, and says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_engines import processor, versions, write_json
from benchmarks.outer_loop import source_here

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results" / "ranks.json"
CHILD = """
import os, sys, time, torch
from benchmarks.outer_loop import begun
from farzi.distill.world import world_of_torchrun
if hasattr(os, "sched_setaffinity"):  # a core of its own, also for the one process
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
with world_of_torchrun(torch.device("cpu")) as world:
    loop, state = begun(sys.argv[1], 1, {}, world)
    loop.step(state)
    world.wait()
    began = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        loop.step(state)
    world.wait()
    took = time.perf_counter() - began
    if world.rank == 0:
        print("students a second", world.size * int(sys.argv[2]) / took, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="timed outer steps a pass")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    source = source_here()
    speeds: dict[int, list[float]] = {1: [], options.ranks: []}
    for _ in range(options.passes):
        for ranks in speeds:
            speeds[ranks].append(students_a_second(source, ranks, options.steps))
            print(f"{ranks} processes: {speeds[ranks][-1]:.3f} students a second", flush=True)
    alone = statistics.median(speeds[1])
    rows = [
        {
            "ranks": ranks,
            "students_per_s": statistics.median(values),
            "all": values,
            "efficiency": statistics.median(values) / (ranks * alone),
        }
        for ranks, values in speeds.items()
    ]
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "source": source,
        "hardware": f"{os.cpu_count()} cores, {processor()}",
        "load": os.getloadavg()[1],
        "versions": versions(),
        "rows": rows,
    }
    write_json(options.out, record)


def students_a_second(source: str, ranks: int, steps: int) -> float:
    """One pass of as many processes, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), "--no-python"]
    command += [sys.executable, "-c", CHILD, source, str(steps)]
    run = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(run.stderr)
    said = [line for line in run.stdout.splitlines() if line.startswith("students a second")]
    return round(float(said[-1].split()[-1]), 4)


if __name__ == "__main__":
    main()
