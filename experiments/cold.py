"""Cold items and cold users: how every row of finished comparisons ranks them, in ten bins.

    python experiments/cold.py [EXPERIMENT ...] [--data-root ROOT] [--results FOLDER]

writes experiments/results/cold.json from the cells of the experiments; without a name, those of
Magazine and MovieLens-1M. Nothing is trained: a finished score holds its metrics a test user. Test
users of all splits are put into ten bins of about as many users twice, by how many training events
their target has, and by how long their own history is. Equal counts share a bin, so that some bins
of a source of short histories are one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import farzi
from farzi.data.files import write_text
from farzi.data.prepared import PreparedData
from farzi.experiments.results import Run
from farzi.experiments.specification import read_experiment
from farzi.experiments.store import read_result

BINS = 10
METRICS = ("nDCG@10", "HR@10")
HERE = Path(__file__).parent
NAMED = ("magazine-25x20", "ml-1m-50x100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=NAMED)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    groups = [
        binned(name, group, asked.results / name / "cells", asked.data_root)
        for name in asked.experiments
        for group in json.loads((asked.results / name / "plan.json").read_text())["groups"]
    ]
    out = asked.results / "cold.json"
    write_text(out, json.dumps({"groups": [each for each in groups if each]}, indent=1) + "\n")
    print(f"{out}: {len(groups)} tables")


def binned(
    name: str, group: Mapping[str, Any], cells: Path, data_root: Path | None
) -> dict[str, Any] | None:
    """One size of one experiment: means by row and bin; None where no split is finished."""
    runs = finished(group, cells)
    splits = [
        split
        for split in sorted({run.split_seed for run in runs})
        if {run.row for run in runs if run.split_seed == split} == set(group["rows"])
    ]
    if not splits:
        return None
    read = dict(read_experiment(HERE / f"{name}.toml").read)
    counts = {
        split: test_users(
            farzi.prepare(group["source"], split_seed=split, data_root=data_root, **read)
        )
        for split in splits
    }
    rows = {
        row: {metric: by_user(runs, row, metric, counts) for metric in METRICS}
        for row in group["rows"]
    }
    kinds = {}
    for number, kind in enumerate(("items", "users")):
        sizes = np.concatenate([counts[split][number] for split in splits])
        bins = tenths(sizes)
        kinds[kind] = {
            "ranges": [[int(sizes[each].min()), int(sizes[each].max())] for each in bins],
            "test_users": [len(each) for each in bins],
            "rows": {
                row: {
                    metric: [float(values[each].mean()) for each in bins]
                    for metric, values in of.items()
                }
                for row, of in rows.items()
            },
        }
    return {
        "experiment": name,
        "source": group["source"],
        "size": group["size"],
        "splits": splits,
        "runs": {row: sum(r.row == row and r.split_seed in splits for r in runs) for row in rows},
        "kinds": kinds,
        "protocol": group["protocol_line"],
    }


def tenths(sizes: np.ndarray) -> list[np.ndarray]:
    """Indices of `sizes` in at most ten bins of about as many, those of equal sizes in one.

    Example:
        >>> [each.tolist() for each in tenths(np.array([5, 2, 2, 9]))]
        [[1, 2], [0], [3]]
    """
    _, which, number = np.unique(sizes, return_inverse=True, return_counts=True)
    middle = np.cumsum(number) - number / 2  # of the places that a size takes in order
    bins = (BINS * middle / len(sizes)).astype(int)[which]
    return [np.flatnonzero(bins == each) for each in np.unique(bins)]


def finished(group: Mapping[str, Any], cells: Path) -> list[Run]:
    """Scores that are there, under the names that this size has for its rows."""
    return [
        Run.from_json({**result, "row": cell["row"]})
        for cell in group["cells"]
        if cell["kind"] == "score" and (result := read_result(cells / cell["file"])) is not None
    ]


def test_users(data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """By test user: training events of the target, and events of the history before it."""
    trained = np.bincount(np.asarray(data.train.tokens), minlength=data.vocabulary.size)
    ends = np.asarray(data.test.offsets)[1:]
    lengths = np.diff(np.asarray(data.test.offsets))
    return trained[np.asarray(data.test.tokens)[ends - 1]], lengths - 1


def by_user(
    runs: list[Run], row: str, metric: str, counts: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """A row's metric for each test user of each split, the mean over its students.

    Raises:
        ValueError: a score is not of as many users as the split has test users.
    """
    columns = []
    for split, (targets, _) in counts.items():
        values = [r.per_user[metric] for r in runs if r.row == row and r.split_seed == split]
        for each in values:
            if len(each) != len(targets):
                raise ValueError(
                    f"{row}, split {split}: {len(each)} scores of {len(targets)} test users."
                )
        columns.append(np.mean(np.asarray(values), axis=0))
    return np.concatenate(columns)


if __name__ == "__main__":
    main()
