"""The view of a run at work."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from farzi import cli
from farzi.data import PreparedData
from farzi.errors import DataError
from farzi.report.live import render, view_run


def show(run: Path) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(view_run(run)))
    return console.file.getvalue()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of ten outer steps after its third."""
    (tmp_path / "settings.json").write_text(
        json.dumps({"source": "toy", "split_seed": 4, "settings": {"outer": {"steps": 10}}})
    )
    records = [{"step": 0, "fresh_loss": 3.0, "wall_s": 99.0}]
    for step in (1, 2, 3):
        norms = {"latent": 0.1 * step}
        records.append(
            {"step": step, "outer_loss": 3.0 - step / 8, "gradient_norm": norms, "wall_s": 2.0}
        )
    records.append({"step": 3, "fresh_loss": 2.5})
    lines = [json.dumps(record) for record in records]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "ou')
    return tmp_path


def test_a_run_at_work(begun: Path) -> None:
    view = view_run(begun)
    assert (view.step, view.steps, view.finished) == (3, 10, False)
    assert view.left_s == pytest.approx(14.0)  # seven steps of two seconds; not the 99 before them
    text = show(begun)
    assert "toy, split seed 4" in text
    assert "3/10, 14 s left" in text
    assert "2.5000  best 2.5000  start 3.0000" in text
    assert "gradient norm, latent" in text


def test_a_run_that_has_only_begun(begun: Path) -> None:
    (begun / "metrics.jsonl").unlink()
    assert "preparing: teachers and start" in show(begun)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no run here \(settings.json is missing\)"):
        view_run(tmp_path)


def test_the_command_shows_a_finished_run_and_leaves(
    reported: tuple[Path, PreparedData], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = reported
    began = time.monotonic()
    assert cli.main(["watch", str(run)]) == 0
    assert time.monotonic() - began < 20
    assert "6/6, finished" in capsys.readouterr().out
    assert cli.main(["watch", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["step"], said["finished"]) == (6, True)
    assert said["best_loss"] <= said["fresh_loss"]
