"""Up in scale: the whole pipeline by its commands, from a hundred thousand events to 100 million.

    python experiments/scale.py [--sources ml-100k ml-1m made-10m made-100m] [--work FOLDER]

writes experiments/results/scale.json, source by source. The made-up logs have the statistics of
MovieLens-1M: its lengths of histories, its popularity, and half of the time the item that a real
user took after the one before. Every stage is a command of farzi in a process of its own: seconds
by the clock, seconds of processor time, and the largest memory it had, in which pages of files that
it maps are counted as well. FARZI_DATA_ROOT says where MovieLens is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import farzi
from farzi.data.files import write_text

RESULTS = Path(__file__).parent / "results" / "scale.json"
MADE = {"made-1m": 1_000_000, "made-10m": 10_000_000, "made-100m": 100_000_000}
USERS_AT_ONCE = 20_000
TEACHERS = 2
FULL_STEPS = 6000  # steps that full data are given at most, whatever their size
EPOCHS = {"made-10m": 6, "made-100m": 1}  # of a teacher at most; 20 where nothing is said
KEPT = ("start_loss", "best_loss", "steps", "validation_loss", "stopped", "metrics", "counts")
SETTINGS = {
    "teachers.num_runs": TEACHERS,
    "outer.steps": 8,
    "outer.students_per_step": 2,
    "outer.validate_every": 4,
    "outer.validation_size": 100,  # users, of some 166 events each
    "outer.validation_seeds": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sources", nargs="+", default=["ml-100k", "ml-1m", "made-10m", "made-100m"]
    )
    parser.add_argument("--work", type=Path, help="folder of logs and runs, which are large")
    asked = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in asked.sources:
        work = Path(tempfile.mkdtemp(prefix="farzi-scale-", dir=asked.work))
        try:
            rows[name] = pipeline(name, work)
        finally:
            shutil.rmtree(work)
        write_text(RESULTS, json.dumps({"settings": SETTINGS, "rows": rows}, indent=1) + "\n")


def pipeline(name: str, work: Path) -> dict[str, Any]:
    """Every stage of one source."""
    row: dict[str, Any] = {"threads": int(os.environ.get("OMP_NUM_THREADS", "0")), "stages": {}}
    source, read = name, []
    if name in MADE:
        source = str(work / "log.parquet")
        row["stages"]["make"] = measured([sys.executable, __file__, "--make", name, source])
        row["parquet_bytes"] = Path(source).stat().st_size
        read = ["--seen-items", "keep"]
    prepared, run = str(work / "prepared"), str(work / "run")
    epochs = EPOCHS.get(name, 20)
    settings = {**SETTINGS, "teachers.max_epochs": epochs}
    changes = [word for key in settings for word in ("--set", f"{key}={settings[key]}")]
    for stage, arguments in {
        "prepare": ["prepare", source, "--out", prepared, *read],
        "distil": [
            *["distill", prepared, "--out", run, "--size", "50x50", "--no-report"],
            *changes,
        ],
        "train on fifty rows": ["train", run, "--on", prepared, "--out", str(work / "few")],
        "train on the log": [
            *["train", prepared, "--out", str(work / "full"), "--width", "32"],
            *["--dropout", "0.2", "--max-steps", str(FULL_STEPS)],
        ],
        "score fifty rows": ["evaluate", str(work / "few"), "--on", prepared],
        "score the log": ["evaluate", str(work / "full"), "--on", prepared],
    }.items():
        row["stages"][stage] = measured([sys.executable, "-m", "farzi", *arguments, "--json"])
        print(name, stage, json.dumps(row["stages"][stage]), flush=True)
    row["epochs"] = epochs
    data = farzi.prepare(prepared)
    row |= {
        "events": sum(part.num_tokens for part in data.parts.values()),
        "users": sum(len(part) for part in data.parts.values()),
        "test_users": len(data.test),
        "items": data.vocabulary.size,
        "prepared_bytes": sum(file.stat().st_size for file in Path(prepared).iterdir()),
        "protocol": data.protocol_line(50),
    }
    return row


def measured(command: list[str]) -> dict[str, Any]:
    """What a command took, and the JSON that it printed.

    Raises:
        SystemExit: it failed; its last line says why.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=printed, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        said.seek(0)
        if child.returncode:
            raise SystemExit(said.read().decode()[-2000:])
        text = printed.read().decode().strip()
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_bytes": used.ru_maxrss * 1024,
        "said": {key: value for key, value in json.loads(text or "{}").items() if key in KEPT},
    }


def make(events: int, file: Path) -> None:
    """Write a log of about that many events with the statistics of MovieLens-1M."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    real = farzi.prepare("ml-1m").train
    tokens, lengths = np.asarray(real.tokens), real.lengths
    ends = np.asarray(real.offsets)[1:] - 1
    goes_on = np.setdiff1d(np.arange(len(tokens)), ends)  # places with an event after them
    order = goes_on[np.argsort(tokens[goes_on], kind="stable")]
    of_item = np.searchsorted(tokens[order], np.arange(tokens.max() + 2))
    rng = np.random.default_rng(0)
    names = [("user", pa.int32()), ("item", pa.int32()), ("time", pa.int32())]
    written = users = 0
    with pq.ParquetWriter(file, pa.schema(names)) as writer:
        while written < events:
            count = min(USERS_AT_ONCE, -(-(events - written) // int(lengths.mean())))
            long = np.sort(rng.choice(lengths, count))[::-1]
            at = np.concatenate([[0], np.cumsum(long)])[:-1]
            made = tokens[rng.integers(len(tokens), size=int(long.sum()))]
            for place in range(1, int(long[0])):
                alive = int(np.searchsorted(-long, -place))  # users longer than `place`
                before = made[at[:alive] + place - 1]
                low, high = of_item[before], of_item[before + 1]
                follows = (rng.random(alive) < 0.5) & (high > low)
                seen = order[(low + rng.random(alive) * (high - low)).astype(np.int64)[follows]]
                made[at[:alive][follows] + place] = tokens[seen + 1]
            users_of = np.repeat(np.arange(users, users + count, dtype=np.int32), long)
            places = np.arange(len(made)) - np.repeat(at, long)
            columns = [users_of, made.astype(np.int32), places.astype(np.int32)]
            writer.write_table(pa.table(dict(zip(("user", "item", "time"), columns, strict=True))))
            written += len(made)
            users += count


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(MADE[sys.argv[2]], Path(sys.argv[3]))
    else:
        main()
