"""The examples for RecTools, RePlay and RecBole, each in an environment of its own.

The environments are made with pip, once, in the folder that FARZI_ENVIRONMENTS names, by default
build/environments; where pip cannot fetch them the tests skip.
"""

from __future__ import annotations

import ast
import os
import subprocess
import venv
from pathlib import Path

import pytest

from examples_circle import write_circle
from farzi import cli

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = Path(os.environ.get("FARZI_ENVIRONMENTS") or ROOT / "build" / "environments")

REQUIREMENTS = {
    "rectools": ["rectools[torch]==0.19.0", "torch==2.13.0"],
    "replay": ["replay-rec[torch]==0.22.0", "torch==2.13.0"],
    # RecBole's last release asks for an older pkg_resources and numpy than it says.
    "recbole": [
        "recbole==1.2.1",
        "torch==2.13.0",
        "setuptools<81",
        "numpy<2",
        "scipy<1.14",
        "pandas<2.3",
    ],
}

pytestmark = pytest.mark.slow


def interpreter(name: str) -> Path:
    """Return the Python that has the tool, after making its environment where there is none."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, *REQUIREMENTS[name]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"pip could not fetch {name}: {done.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return python


def run_example(tool: str, example: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [str(interpreter(tool)), "-W", "ignore", str(ROOT / "examples" / example), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def export(tmp_path: Path, to: str, out: str) -> Path:
    run = write_circle(tmp_path / "run")
    target = tmp_path / out
    arguments = ["export", str(run), "--to", to, "--samples", "4", "--out", str(target), "-q"]
    assert cli.main(arguments) == 0
    return target


@pytest.mark.parametrize("tool", ["rectools", "replay"])
def test_it_learns_the_circle(tool: str, tmp_path: Path) -> None:
    table = export(tmp_path, "csv", "distilled.csv")
    printed = run_example(tool, f"{tool}_sasrec.py", str(table), cwd=tmp_path)
    assert "[100, 101, 102, 103, 104] -> [105, " in printed


def test_recbole_reads_the_file_and_learns_from_it(tmp_path: Path) -> None:
    folder = export(tmp_path, "recbole", "recbole/distilled")
    printed = run_example("recbole", "recbole_gru4rec.py", str(folder), "20", cwd=tmp_path)
    scores = ast.literal_eval(printed.strip().splitlines()[-1])
    assert scores["hit@5"] > 0.9
