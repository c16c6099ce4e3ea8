"""Distilling every day: today's log from yesterday's artifact, against a distillation from nothing.

    python experiments/daily.py [--data-root ROOT] [--runs FOLDER]

writes experiments/results/daily.json. Yesterday's log is the first nine tenths of MovieLens-100k in
time, today's is all of it; both are split by leave-last-out, so that yesterday's run has seen none
of the events that today's are scored on. Rows are scored by fresh students, each row tuned alike on
validation. Runs that are in FOLDER are taken up again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import farzi
from farzi.artifact import read_artifact
from farzi.data.files import write_text
from farzi.data.prepared import PreparedData
from farzi.data.sources import SOURCES, find
from farzi.distill import distill
from farzi.distill.run import plan_run
from farzi.experiments.compare import CompareSettings, Split, compare
from farzi.experiments.store import Store

SHARE = 0.1  # of all events, that arrive later
STEPS, FIFTH = 40, 8  # outer steps: the default's, and a fifth of them
METRICS = ("HR@10", "nDCG@10", "HR@100", "nDCG@100", "loss")
SETTINGS = {"num_sequences": 50, "length": 50, "outer.validate_every": 8}
ROWS: dict[str, dict[str, Any]] = {
    "nothing": {"outer.steps": STEPS},
    "nothing-fifth": {"outer.steps": FIFTH, "teachers.num_runs": 1},
    "yesterday": {"outer.steps": 0, "start.name": "artifact"},
    "yesterday-fifth": {"outer.steps": FIFTH, "start.name": "artifact"},
}
SAID = {
    "nothing": "from nothing",
    "nothing-fifth": "from nothing, a fifth of it",
    "yesterday": "yesterday's, no outer step",
    "yesterday-fifth": "from yesterday's",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/daily"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    early, whole = logs(asked.runs, asked.data_root)
    read = {"task": "recommend", "split": "leave-last-out", "seen_items": "leave-out"}
    yesterday, today = (farzi.prepare(log, **read) for log in (early, whole))
    distilled(yesterday, asked.runs / "before", {"outer.steps": STEPS})
    begun = {"start.run": str(asked.runs / "before")}
    rows = {
        name: distilled(
            today, asked.runs / name, changes | (begun if "start.name" in changes else {})
        )
        for name, changes in ROWS.items()
    }
    result = {
        "source": "ml-100k",
        "events": [data.train.num_tokens for data in (yesterday, today)],
        "users": [len(data.train) for data in (yesterday, today)],
        "items": [data.vocabulary.size for data in (yesterday, today)],
        "new_items": len(set(today.vocabulary.ids) - set(yesterday.vocabulary.ids)),
        "rows": scored(today, asked.runs, rows),
        "protocol": today.protocol_line(SETTINGS["length"]),
    }
    out = Path(__file__).parent / "results" / "daily.json"
    write_text(out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=1))


def logs(runs: Path, data_root: Path | None) -> list[Path]:
    """The log of yesterday and of today, as tables in the order of time."""
    _, (path,) = find(SOURCES["ml-100k"], data_root)
    table = np.loadtxt(path, dtype=np.int64)
    table = table[np.argsort(table[:, 3], kind="stable")][:, [0, 1, 3]]
    runs.mkdir(parents=True, exist_ok=True)
    written = []
    for name, count in (("early", round(len(table) * (1 - SHARE))), ("whole", len(table))):
        file = runs / f"{name}.tsv"
        head = "user_id\titem_id\ttimestamp"
        np.savetxt(file, table[:count], "%d", "\t", header=head, comments="")
        written.append(file)
    return written


def distilled(data: PreparedData, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """One distillation, with the seconds that its teachers and the rest of it took."""
    record = folder.with_name(f"{folder.name}.json")
    if record.is_file():
        return json.loads(record.read_text())
    settings = plan_run(data, SETTINGS | changes).settings
    started, teachers_s = time.process_time(), 0.0

    def report(stage: str, done: int, total: int, note: str) -> None:
        nonlocal teachers_s
        if stage == "teachers":
            teachers_s = time.process_time() - started
        print(f"{folder.name}: {stage} {done} of {total} {note}", flush=True)

    outcome = distill(
        data, folder, settings, resume=(folder / "settings.json").is_file(), report=report
    )
    row = {
        "outer_steps": outcome.outer_steps,
        "best_step": outcome.best_step,
        "teachers": settings.teachers.num_runs if settings.needs_teachers else 0,
        "teachers_seconds": round(teachers_s, 1),
        "seconds": round(time.process_time() - started - teachers_s, 1),
        "start_loss": outcome.start_loss,
        "best_loss": outcome.best_loss,
    }
    record.write_text(json.dumps(row))
    return row


def scored(data: PreparedData, runs: Path, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the scores of fresh students."""
    few = {name: read_artifact(runs / name / "artifact") for name in rows}
    named = {name: artifact.synthetic for name, artifact in few.items()}
    split = Split(
        data,
        {**few["nothing"].recipe["student"]},
        SETTINGS["num_sequences"],
        10,
        {"farzi" if name == "nothing" else name: synthetic for name, synthetic in named.items()},
    )
    settings = CompareSettings(
        rows=("farzi",),
        seeds=1,
        patience=4,
        max_steps=3000,
        lrs=(0.01,),
        dropouts=(0.0,),
        decays=(0.0,),
        smoothings=(0.0,),
    )
    compared = compare(
        [split],
        settings,
        stores=[Store(runs / "compared")],
        progress=lambda done, total, note: print(f"compare: {done} of {total} {note}", flush=True),
    )
    result = []
    for name, row in rows.items():
        found = compared.row("farzi" if name == "nothing" else name)
        scores = {
            metric: [found.metrics[metric].mean, found.metrics[metric].std] for metric in METRICS
        }
        result.append(
            {"row": name, "said": SAID[name], **row, "runs": found.num_runs, "scores": scores}
        )
    return result


if __name__ == "__main__":
    main()
