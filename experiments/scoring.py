"""What scoring every event changes, against scoring the last context of a row: one student, twice.

    python experiments/scoring.py [--data-root ROOT] [--sources ml-100k ptb]

writes experiments/results/scoring.json. A student of full data is trained once on each source and
its weights are scored on the test part by both rules: as farzi did until November 2026, the last
`context_length` targets of each row alone; and as it does now, every one. Likewise whether seen
items are left out of the ranking, which was inferred from the training users of each split, and is
now decided once for the whole log.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import farzi
from farzi.data.files import write_text
from farzi.data.prepared import PreparedData
from farzi.evaluation import evaluate, sequences_of, validation_loss
from farzi.models import build_student
from farzi.training import RealBatches, TrainSettings, train

CONTEXT = 50
STEPS = {"ml-100k": 900, "ptb": 400}
SPLITS = (0, 1, 2, 3, 4)
SHOWN = ("loss", "perplexity", "sentence_perplexity", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sources", nargs="+", default=sorted(STEPS))
    asked = parser.parse_args()
    more = {} if asked.data_root is None else {"data_root": asked.data_root}
    rows = [scored(source, more) for source in asked.sources]
    out = Path(__file__).parent / "results" / "scoring.json"
    write_text(out, json.dumps({"steps": STEPS, "rows": rows}, indent=2) + "\n")


def scored(source: str, more: dict[str, Path]) -> dict[str, object]:
    """One source: what is counted and what comes out, before and after."""
    data = farzi.prepare(source, **more)
    last = replace(data, test=data.test.last(CONTEXT + (data.task == "recommend")))
    name = "transformer" if data.task == "language" else "sasrec"
    student = build_student(
        {
            "name": name,
            "num_tokens": data.vocabulary.size,
            "context_length": CONTEXT,
            "width": 32,
            "dropout": 0.2 if data.task == "recommend" else 0.0,
        }
    )
    held_out = sequences_of(data, "validation").take(np.arange(min(512, len(data.validation))))
    trained = train(
        student,
        RealBatches(sequences_of(data, "train"), CONTEXT, 64, 1),
        TrainSettings(lr=0.01, max_steps=STEPS[source], eval_every=100, smoothing=0.1, seed=1),
        lambda params: validation_loss(student, params, held_out),
    )
    row: dict[str, object] = {"source": source, "steps": trained.step}
    for when, version in (("before", last), ("after", data)):
        scores = evaluate(student, trained.params, version)
        row[when] = {
            "targets": targets(version),
            **{metric: scores.metrics[metric] for metric in SHOWN if metric in scores.metrics},
        }
    if data.task == "recommend":
        splits = [farzi.prepare(source, split_seed=seed, **more) for seed in SPLITS]
        row["seen_items_before"] = [inferred(split) for split in splits]
        row["seen_items_after"] = [split.seen_items for split in splits]
    print(row, flush=True)
    return row


def targets(data: PreparedData) -> int:
    """Targets of the test part: every token of a row but its first."""
    rows = sequences_of(data, "test")
    return rows.num_tokens - len(rows)


def inferred(data: PreparedData) -> str:
    """The old rule: seen items stay where any training user has any item twice."""
    twice = any(len(np.unique(row)) < len(row) for row in data.train)
    return "keep" if twice else "leave-out"


if __name__ == "__main__":
    main()
