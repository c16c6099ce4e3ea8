"""The notebooks run from top to bottom, and are kept without what they print."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_is_one_for_each_half() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["engine", "recommendation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # of the kernel's own making
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="`nbclient` is not installed")
    nbformat = pytest.importorskip("nbformat", reason="`nbformat` is not installed")
    pytest.importorskip("ipykernel", reason="`ipykernel` is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "error" not in {
        output["output_type"] for cell in notebook.cells for output in cell.get("outputs", ())
    }
    assert {"engine": "wrong labels", "recommendation": "nDCG@10"}[path.stem] in printed
