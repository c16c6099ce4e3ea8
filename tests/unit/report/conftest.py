"""A run to report on: small, finished, with a comparison of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farzi.data import PreparedData
from farzi.distill import distill
from toy import SMALL, toy_data

COMPARISON = {
    "protocol_line": "toy, split by users",
    "split_seeds": [0],
    "rows": [
        {
            "name": "full",
            "sequences": 48,
            "tokens": 400,
            "bytes": 1600,
            "metrics": {"nDCG@10": {"mean": 0.5, "std": 0.01}, "loss": {"mean": 1.5, "std": 0.1}},
            "num_runs": 3,
            "seconds": 8.0,
        },
        {
            "name": "farzi",
            "sequences": 6,
            "tokens": 48,
            "bytes": 900,
            "metrics": {"nDCG@10": {"mean": 0.45, "std": None}, "loss": {"mean": 1.4, "std": 0.1}},
            "num_runs": 3,
            "seconds": 2.0,
        },
    ],
    "ratios": {"farzi": {"nDCG@10": 0.9, "mean": 0.9}},
    "paired": [
        {
            "a": "farzi",
            "b": "full",
            "metric": "loss",
            "difference": -0.1,
            "low": -0.2,
            "high": -0.05,
        },
        {
            "a": "farzi",
            "b": "full",
            "metric": "nDCG@10",
            "difference": -0.05,
            "low": -0.1,
            "high": 0,
        },
    ],
}


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    """A finished run and its source."""
    folder = tmp_path_factory.mktemp("report")
    data = toy_data(folder)
    distill(data, folder / "run", SMALL.with_values({"outer.steps": 6}))
    (folder / "run/comparison.json").write_text(json.dumps(COMPARISON))
    return folder / "run", data
