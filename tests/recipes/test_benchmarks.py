"""The engines' benchmark keeps what it has measured when its time is over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_data_weights_end_in_time_and_agree(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/bench_data_weights.py", "--out", str(out)]
    command += ["--steps", "2", "--rounds", "100000", "--threads", "1", "--minutes", "1"]
    command += ["--engines", "autograd", "farzi Stored", "farzi Reversible"]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - began < 90
    rows = json.loads(out.read_text())["rows"]
    assert [row["engine"] for row in rows] == ["autograd", "farzi Stored", "farzi Reversible"]
    for row in rows:
        assert row["ms_per_step_all"]
        assert row["gradient_error"] < 1e-3
        assert row["peak_bytes"] > 0


def test_the_memory_of_a_full_ranking_does_not_grow_with_its_users(tmp_path: Path) -> None:
    """What was kept of each batch lay in the space of its scores: 100,000 users took all memory."""
    out = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/bench_ranking.py", "--out", str(out)]
    command += ["--users", "500", "8000", "--items", "20000"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    few, many = json.loads(out.read_text())["rows"]
    assert (few["users"], many["users"]) == (500, 8000)
    assert many["peak_bytes"] - few["peak_bytes"] < 250e6
