"""A newcomer's first quarter of an hour, timed: clone, demo, their own log, their own model.

    python benchmarks/first_quarter_hour.py [FOLDER]

Every command but the writing of the log stands in README.md or docs/use.md as it is run here; a
test holds that. Seconds by the clock and of the processor, for each, go to
benchmarks/results/first_quarter_hour.json. The processor's seconds count on a
machine that others use as well; two cores spend at most two of them a second.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/first_quarter_hour.json"

USERS, ITEMS = 500, 300

STEPS = {
    "make demo": "make demo",
    "distil a log of your own": "farzi distill events.csv --user-col user --item-col item "
    "--time-col time --out runs/mine",
    "train a model of your own on it": "python examples/own_gru4rec.py runs/mine",
}


def write_log(path: Path) -> int:
    """A log in which every item tends to be followed by two others; how many events it has."""
    draw = random.Random(0)
    follow = [(draw.randrange(ITEMS), draw.randrange(ITEMS)) for _ in range(ITEMS)]
    lines = ["user,item,time"]
    for user in range(USERS):
        item = draw.randrange(ITEMS)
        for step in range(draw.randrange(10, 60)):
            lines.append(f"user{user},film{item},{step}")
            item = draw.choice(follow[item]) if draw.random() < 0.8 else draw.randrange(ITEMS)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 1


def timed(command: str, folder: Path) -> dict[str, float]:
    """Run a command as a shell does; seconds by the clock and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    print(f"$ {command}", flush=True)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("FARZI")}
    subprocess.run(["bash", "-c", command], cwd=folder, env=clean, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return {"wall_s": round(time.perf_counter() - began, 1), "cpu_s": round(used, 1)}


def main(folder: Path) -> None:
    load = os.getloadavg()[0]
    clone = folder / "farzi"
    rows: list[dict[str, Any]] = [
        {"step": "git clone", **timed(f"git clone --quiet {ROOT} {clone}", folder)}
    ]
    events = 0
    for step, command in STEPS.items():
        if "events.csv" in command:
            events = write_log(clone / "events.csv")
        typed = command if command.startswith("make") else f". .venv/bin/activate && {command}"
        rows.append({"step": step, "command": command, **timed(typed, clone)})
    record = {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "events": events,
        "rows": rows,
    }
    draft = RESULT.with_name(f".{RESULT.name}")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draft.rename(RESULT)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
