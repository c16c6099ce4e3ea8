"""A search over settings: what it may vary, that it goes on, that several processes share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import farzi
from farzi.cli import main
from farzi.distill import distill
from farzi.errors import DataError, SettingsError
from farzi.sweeps.space import parse_axis, parse_fixed
from toy import SMALL, toy_data, write_log

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

QUICK = {"width": 8, "max_steps": 6}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("sweep") / "log.tsv")


def test_axes_are_read_as_written() -> None:
    assert parse_axis("width=8..64").probes == (8, 64)
    assert parse_axis("lr=1e-3..0.1:log").log
    assert parse_axis("student=sasrec,gru4rec").values == ("sasrec", "gru4rec")
    assert parse_axis("student=rnn:cell=gru,hidden=3,sasrec").values == (
        "rnn:cell=gru,hidden=3",
        "sasrec",
    )
    assert parse_fixed(["max-steps=3", "student=sasrec", "labels=false"]) == {
        "max_steps": 3,
        "student": "sasrec",
        "labels": False,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "NAME=LOW..HIGH"),
        ("lr=", "NAME=LOW..HIGH"),
        ("lr=0.1..0.1", "below"),
        ("lr=0..0.1:log", "above 0"),
        ("lr=0.1..1:exp", "only :log"),
        ("lr=a..b", "numbers"),
        ("width=8,8", "differ"),
        ("width=8,,9", "differ, and none be empty"),
    ],
)
def test_a_wrong_axis_is_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_axis(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vary", "lrr=0.1,0.2"], "--vary lrr=0.1,0.2: lrr: unknown setting: did you mean lr?"),
        (["--vary", "lr=-1..0.1"], "`lr` must be > 0, got -1"),
        (["--vary", "width=8.5,9"], "`width` must be a valid integer"),
        (["--vary", "width=5,8", "--set", "student=sasrec", "--set", "num_heads=4"], "num_heads"),
        (["--vary", "student=sasrec,sasrek"], "unknown student 'sasrek'"),
        (["--vary", "lr=0.1,0.2", "--set", "lr=0.1"], "--set lr: is varied too"),
        (["--vary", "lr=0.1,0.2", "--vary", "lr=0.3,0.4"], "name lr once"),
        (["--vary", "lr=0.1..0.2", "--sampler", "grid"], "a grid needs values"),
        (["--vary", "lr=0.1,0.2", "--trials", "0"], "--trials must be"),
        ([], "--vary must say what to try"),
        (["--vary", "lr=0.1,0.2", "--of", "distillation"], "unknown setting"),
    ],
)
def test_what_is_wrong_is_said_before_any_trial(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["sweep", str(log), "--out", str(tmp_path / "sweep"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_grid_is_tried_whole_and_the_best_is_that_of_train(log: Path, tmp_path: Path) -> None:
    found = farzi.sweep(
        log, tmp_path, vary=["lr=0.0001,0.05", "student=sasrec,gru4rec"], fixed=QUICK,
        sampler="grid",
    )  # fmt: skip
    assert [dict(trial.values) for trial in found.trials] == [
        {"lr": lr, "student": student} for lr in (0.0001, 0.05) for student in ("sasrec", "gru4rec")
    ]
    assert found.best is not None
    assert found.best.values["lr"] == 0.05
    trained = farzi.train(log, **QUICK, **found.best.values)
    assert found.best.loss == pytest.approx(trained.loss, abs=1e-6)
    assert found.best.loss == min(trial.loss for trial in found.trials)


def test_cut_off_it_goes_on_as_if_it_had_not_been(log: Path, tmp_path: Path) -> None:
    vary, asked = ["lr=0.0005..0.2:log", "student=sasrec,gru4rec"], []

    def soon() -> bool:
        asked.append(1)
        return len(asked) > 20  # within one of the trials: each asks more than twice

    whole = farzi.sweep(log, tmp_path / "whole", vary=vary, fixed=QUICK, trials=14)
    cut = farzi.sweep(log, tmp_path / "cut", vary=vary, fixed=QUICK, trials=14, should_stop=soon)
    assert cut.stopped
    assert 0 < len(cut.trials) < 14
    again = farzi.sweep(log, tmp_path / "cut", vary=vary, fixed=QUICK, trials=14)
    assert not again.stopped
    assert [(t.values, t.losses) for t in again.trials] == [
        (t.values, t.losses) for t in whole.trials
    ]
    assert len({t.values["lr"] for t in again.trials}) == 14


def test_the_command_of_the_best_trains_it(log: Path, tmp_path: Path, capsys) -> None:
    vary = ["student.cell=gru,lstm", "lr=0.02,0.05"]
    fixed = {**QUICK, "student": "rnn"}
    found = farzi.sweep(log, tmp_path / "sweep", vary=vary, fixed=fixed, sampler="grid")
    assert found.command is not None
    words = found.command.split()
    assert words[words.index("--student") + 1].startswith("rnn:cell=")
    assert main([*words[1:-1], str(tmp_path / "model"), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert found.best is not None
    assert trained["validation_loss"] == pytest.approx(found.best.loss, abs=1e-6)


def test_more_trials_are_added_and_another_sweep_is_refused(log: Path, tmp_path: Path) -> None:
    for trials in (1, 2, 2):
        found = farzi.sweep(log, tmp_path, vary=["lr=0.01..0.1"], fixed=QUICK, trials=trials)
        assert len(found.trials) == trials
    with pytest.raises(SettingsError, match="has vary"):
        farzi.sweep(log, tmp_path, vary=["lr=0.01..0.2"], fixed=QUICK)
    with pytest.raises(SettingsError, match="has seeds 1, and this one 2"):
        farzi.sweep(log, tmp_path, vary=["lr=0.01..0.1"], fixed=QUICK, seeds=2)


def test_a_trial_that_fails_is_kept_with_its_reason(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = farzi.api.TrainingPlan.train

    def fails(self, progress=None):
        if self.settings.lr < 0.01:
            raise DataError("no luck.")
        return plan(self, progress)

    monkeypatch.setattr(farzi.api.TrainingPlan, "train", fails)
    found = farzi.sweep(log, tmp_path / "a", vary=["lr=0.001,0.05"], fixed=QUICK, sampler="grid")
    assert [trial.error for trial in found.failed] == ["no luck."]
    assert found.best is not None
    with pytest.raises(DataError, match="every trial failed, the last: no luck"):
        farzi.sweep(log, tmp_path / "b", vary=["lr=0.001,0.002"], fixed=QUICK, sampler="grid")


def test_on_a_run_it_stands_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_data(tmp_path)
    run = tmp_path / "run"
    distill(data, run, SMALL.with_values({"outer.steps": 0}))
    flags = ["--vary", "lr=0.01..0.1:log", "--vary", "width=4,8", "--trials", "3"]
    flags += ["--set", "max_steps=8", "--json"]
    assert main(["sweep", str(run), *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["trials"]) == 3
    assert told["command"].startswith(f"farzi train {run} --max-steps 8 --lr ")
    page = (run / "report.html").read_text()
    assert "Search over settings" in page
    assert "Validation loss by width" in page
    assert "Validation loss by lr" in (run / "sweep/report.html").read_text()


def test_distillations_share_teachers_and_keep_their_runs(tmp_path: Path) -> None:
    data = toy_data(tmp_path)
    small = {
        "num_sequences": 4, "length": 8, "latent_dim": 3, "student.width": 8,
        "teachers.num_runs": 1, "teachers.max_epochs": 2, "inner.steps": 4, "inner.window": 2,
        "outer.steps": 1, "outer.num_students": 2, "outer.validation_seeds": 1,
    }  # fmt: skip
    found = farzi.sweep(
        data, tmp_path / "sweep", of="distillation", vary=["outer.lr_labels=0.001,0.05"],
        fixed=small, sampler="grid",
    )  # fmt: skip
    assert len(found.ranked) == 2
    assert len([p for p in (tmp_path / "sweep/teachers").iterdir() if p.is_dir()]) == 1
    assert found.best is not None
    run = Path(found.best.folder)
    assert (run / "teachers/omega.json").is_file()
    assert len(farzi.load(run)) == 4
    assert found.command == f"farzi compare {run}"


def start(log: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "farzi", "sweep", str(log), "--out", str(out)]
    command += ["--vary", "lr=0.001..0.1:log", "--set", "width=8", "--no-report", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_processes_share_the_trials_and_a_signal_loses_none(log: Path, tmp_path: Path) -> None:
    flags = ["--set", "max_steps=200", "--trials", "12", "--processes", "2"]
    journal = tmp_path / "sweep/journal.log"
    process = start(log, tmp_path / "sweep", *flags)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if journal.is_file() and '"losses"' in journal.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    again = start(log, tmp_path / "sweep", *flags, "--json")
    told, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    result = json.loads(told)
    assert len(result["trials"]) == 12
    assert all(trial["loss"] is not None for trial in result["trials"])
    assert len({trial["values"]["lr"] for trial in result["trials"]}) == 12


@pytest.mark.slow
def test_a_killed_process_loses_its_trial_alone(log: Path, tmp_path: Path) -> None:
    flags = ["--set", "max_steps=100", "--trials", "4"]
    process = start(log, tmp_path / "sweep", *flags)
    running = tmp_path / "sweep/running"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (running.is_dir() and any(running.iterdir())):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    again = start(log, tmp_path / "sweep", *flags, "--json")
    told, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert len(json.loads(told)["trials"]) == 4
    assert not any(running.iterdir())
