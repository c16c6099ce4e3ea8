"""The seeds of the fuzzing targets, and a short run of each where atheris is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
found = importlib.util.spec_from_file_location("farzi_fuzz", HERE / "fuzz.py")
assert found is not None
assert found.loader is not None
fuzz = importlib.util.module_from_spec(found)
found.loader.exec_module(fuzz)


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_seeds_are_read_or_refused(name: str, tmp_path: Path) -> None:
    one = fuzz.target(name, tmp_path)
    outcomes = {seed.name: one(seed.read_bytes()) for seed in (HERE / "seeds" / name).iterdir()}
    assert len(outcomes) >= 3
    for seed, read in outcomes.items():
        assert read == seed.startswith("good"), seed


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: pip install 'farzi[fuzz]'")
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, "20"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.glob("crash-*"))
