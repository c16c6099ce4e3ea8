"""Time and memory of scoring many users by a full ranking over 60,000 items, up to 1 M users.

    python benchmarks/bench_ranking.py          writes benchmarks/results/ranking.json

What `farzi evaluate` and `compare` do with a test part: every user's last item ranked against the
whole catalogue, items already seen left out, and the loss of every event but a user's first.
Histories of five events, drawn evenly; SASRec of the default width, untrained, which takes as long
as a trained one. Every size runs in a process of its own and is written as it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_engines import processor, versions, write_json

RESULTS = Path(__file__).parent / "results" / "ranking.json"
SIZES = (10_000, 100_000, 1_000_000)
ITEMS, EVENTS = 60_000, 5
CHILD = """
import dataclasses, json, resource, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from farzi.cli._common import keep_freed_memory
keep_freed_memory()
from farzi.data import prepare
from farzi.data.sequences import Sequences
from farzi.evaluation import evaluate
from farzi.distill import DistillSettings
users, items, events, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
rng = np.random.default_rng(0)
lines = [f"{n // 2},{n},{n % 2}" for n in range(items)]  # two items a user: all of them are known
with tempfile.TemporaryDirectory() as folder:
    log = Path(folder, "log.csv")
    log.write_text("\\n".join(["user,item,time", *lines]))
    data = prepare(log, seen_items="leave-out")
offsets = np.arange(users + 1, dtype=np.int64) * events
tokens = rng.integers(0, items, users * events).astype(np.int32)
data = dataclasses.replace(data, test=Sequences(tokens, offsets))
student = DistillSettings().student.build(data.vocabulary.size, 50)
params = student.init(torch.Generator().manual_seed(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
wall, cpu = time.perf_counter(), time.process_time()
scores = evaluate(student, params, data)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "users": scores.counts["users"], "items": data.vocabulary.size,
    "events_scored": scores.counts["events_scored"], "wall_s": wall, "cpu_s": cpu,
    "before_bytes": before, "peak_bytes": peak,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=SIZES)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows: list[dict[str, float]] = []
    for users in asked.users:
        command = [sys.executable, "-c", CHILD]
        command += map(str, (users, asked.items, EVENTS, asked.threads))
        threads = {"OMP_NUM_THREADS": str(asked.threads)}
        child = subprocess.run(
            command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(child.stdout))
        print(rows[-1], flush=True)
        record = {
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": f"{os.cpu_count()} cores, {processor()}",
            "threads": asked.threads,
            "load": os.getloadavg()[1],
            "versions": versions(),
            "rows": rows,
        }
        write_json(asked.out, record)


if __name__ == "__main__":
    main()
