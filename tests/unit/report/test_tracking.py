"""Records of a run told to a tracker while it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farzi import cli
from farzi.errors import SettingsError
from farzi.report.tracking import tracker
from toy import write_log

SMALL = {
    "num_sequences": 4,
    "length": 8,
    "latent_dim": 4,
    "student.width": 8,
    "start": "random",
    "inner.steps": 4,
    "inner.window": 4,
}


def test_curves_in_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="needs farzi[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = write_log(tmp_path / "log.tsv")
    settings = [part for name in SMALL for part in ("--set", f"{name}={SMALL[name]}")]
    run = tmp_path / "run"
    command = [
        "distill",
        str(log),
        "--out",
        str(run),
        "--outer-steps",
        "2",
        "--track",
        "tensorboard",
    ]
    assert cli.main([*command, "--no-report", "-q", *settings]) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    outer = {event.step: event.value for event in events.Scalars("outer_loss")}
    assert outer == {
        record["step"]: pytest.approx(record["outer_loss"], rel=1e-6)
        for record in records
        if "outer_loss" in record
    }
    assert len(events.Scalars("gradient_norm/latent")) == 2
    assert len(events.Scalars("fresh_loss")) >= 2


def test_a_tracker_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match="`track` must be one of tensorboard, got 'wandb'"):
        tracker("wandb", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "farzi.report.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'farzi\[track\]'"):
        tracker("tensorboard", tmp_path)
    log = write_log(tmp_path / "log.tsv")
    assert cli.main(["distill", str(log), "--out", str(tmp_path / "run"), "--track", "wandb"]) == 2
    assert "farzi: --track must be one of tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
