"""Time and memory of `prepare` on generated events from Parquet, with DuckDB, from 1 M up.

    python benchmarks/bench_prepare.py          writes benchmarks/results/prepare.json

Every size runs in a process of its own and is written as it is done. Users have 100 events on
average, items follow a power law, times are drawn evenly. `cpu_s` is the time of all threads
together; on a machine that does other work as well it says more than `wall_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_engines import processor, write_json

RESULTS = Path(__file__).parent / "results" / "prepare.json"
SIZES = (1_000_000, 10_000_000, 100_000_000)
PACKAGES = ("duckdb", "ibis-framework", "pyarrow", "numpy")
ROWS_AT_ONCE = 2_000_000
CHILD = """
import json, resource, sys, time
from farzi.data import prepare
wall, cpu = time.perf_counter(), time.process_time()
data = prepare(sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "events": data.protocol["events"], "users": data.protocol["users"],
    "items": data.protocol["items"], "wall_s": wall, "cpu_s": cpu, "peak_bytes": peak,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: list[dict[str, float]] = []
    for events in arguments.events:
        with tempfile.TemporaryDirectory(prefix="farzi-bench-") as folder:
            file = Path(folder, "events.parquet")
            generate(file, events)
            rows.append({"file_bytes": file.stat().st_size, **measure(file)})
        print(rows[-1], flush=True)
        write_json(
            arguments.out,
            {
                "date": datetime.now(UTC).date().isoformat(),
                "hardware": f"{os.cpu_count()} cores, {processor()}",
                "load": os.getloadavg()[1],
                "versions": {name: version(name) for name in PACKAGES},
                "rows": rows,
            },
        )


def generate(file: Path, events: int) -> None:
    """Write a log of that many events, the same for the same number."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    kinds = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "timestamp")])
    with pq.ParquetWriter(file, kinds) as writer:
        for start in range(0, events, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, events - start)
            columns = [
                rng.integers(0, events // 100, count),
                (rng.pareto(1.2, count) * 50).astype(np.int64) % 60_000,
                rng.integers(1_500_000_000, 1_700_000_000, count),
            ]
            writer.write_table(pa.table(columns, schema=kinds))


def measure(file: Path) -> dict[str, float]:
    """Prepare a file in a process of its own."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(child.stdout)
    return result


if __name__ == "__main__":
    main()
