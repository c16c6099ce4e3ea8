import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from farzi.artifact import read_artifact
from farzi.distill import distill
from farzi.distill.run import diverged
from farzi.errors import RunLockedError, SettingsError
from farzi.experiments.opened import open_split
from farzi.experiments.rows import load_row
from toy import SMALL, toy_data, write_log


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("start", ["teacher", "real", "random"])
@pytest.mark.parametrize("labels", [True, False])
def test_every_start_ends_in_an_artifact(tmp_path, start, labels):
    data = toy_data(tmp_path)
    settings = SMALL.with_values({"start": start, "labels": labels})
    outcome = distill(data, tmp_path / "run", settings)
    few = read_artifact(outcome.artifact).synthetic
    assert few.latent.shape == (6, 8, 4)
    assert (few.label_latent is not None) == labels
    torch.testing.assert_close(few.tokens().sum(-1), torch.ones(6, 8))
    records = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    looks = {record["step"]: record["fresh_loss"] for record in records if "fresh_loss" in record}
    assert outcome.start_loss == looks[0]
    assert outcome.best_loss == min(looks.values()) == looks[outcome.best_step]
    assert len(set(looks.values())) == 3  # the outer steps move what students learn


def test_records_hold_what_the_report_needs(tmp_path):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    records = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    steps = [record for record in records if "outer_loss" in record]
    looks = [record for record in records if "fresh_loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in looks] == [0, 3, 6]
    for record in steps:
        assert set(record["gradient_norm"]) == {"latent", "decoder", "labels"}
        assert set(record["agreement"]) == {"latent", "decoder", "labels"}
        assert len(set(record["agreement"].values())) == 3  # a cosine of its own for each block


def test_stopped_and_resumed_gives_the_same_bytes(tmp_path):
    data = toy_data(tmp_path)
    distill(data, tmp_path / "whole", SMALL)
    taken = []

    def note(stage, done, total, note):
        if stage == "outer steps":
            taken.append(done)

    stopped = distill(
        data, tmp_path / "parts", SMALL, report=note, should_stop=lambda: len(taken) >= 4
    )
    assert stopped.artifact is None
    assert stopped.outer_steps == 4
    distill(data, tmp_path / "parts", SMALL, resume=True)
    assert files(tmp_path / "parts/artifact") == files(tmp_path / "whole/artifact")


def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    log = write_log(tmp_path / "toy.tsv")
    command = [sys.executable, "-m", "farzi", "distill", str(log), "--task", "recommend"]
    (tmp_path / "small.json").write_text(json.dumps(SMALL.as_dict()))
    command += ["--config", str(tmp_path / "small.json"), "--outer-steps", "40"]
    command += ["--set", "outer.patience=99", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, env=environment)
    killed = subprocess.Popen([*command, "--out", tmp_path / "parts"], env=environment)
    state = tmp_path / "parts/state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.15)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "parts/artifact").exists()
    subprocess.run([*command, "--out", tmp_path / "parts", "--resume"], check=True, env=environment)
    assert files(tmp_path / "parts/artifact") == files(tmp_path / "whole/artifact")


def test_a_folder_in_use_is_left_alone(tmp_path):
    data = toy_data(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        distill(data, tmp_path / "run", SMALL)
    assert (tmp_path / "run/mine.txt").read_text() == "mine"


def test_resume_with_other_settings_is_refused(tmp_path):
    data = toy_data(tmp_path)
    distill(data, tmp_path / "run", SMALL)
    other = SMALL.with_values({"inner.window": 2})
    with pytest.raises(SettingsError, match=r"settings\.inner\.window was 4"):
        distill(data, tmp_path / "run", other, resume=True)


def test_two_processes_do_not_share_a_run(tmp_path):
    import fcntl

    data = toy_data(tmp_path)
    distill(data, tmp_path / "run", SMALL)
    with (tmp_path / "run/run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError):
            distill(data, tmp_path / "run", SMALL, resume=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inner.window": 99},
        {"start": "teachers"},
        {"num_sequences": 0},
        {"teachers.dropout": 1.5},
        {"inner.optimizer.momentun": 0.5},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        SMALL.with_values(wrong)


@pytest.mark.parametrize(("dtype", "stored"), [("auto", "float16"), ("int8", "int8")])
def test_the_artifact_is_stored_as_asked_and_a_row_has_its_bytes(tmp_path, dtype, stored):
    data = toy_data(tmp_path)
    settings = SMALL.with_values({"dtype": dtype, "outer.steps": 0})
    outcome = distill(data, tmp_path / "run", settings)
    artifact = read_artifact(outcome.artifact)
    assert artifact.dtype == stored
    split = open_split(tmp_path / "run", data, teachers=False)
    size = load_row("farzi").build(split, 0, 0).size
    assert size.num_bytes == artifact.num_bytes
    on_disk = sum(file.stat().st_size for file in outcome.artifact.glob("*.safetensors"))
    assert size.num_bytes < on_disk < size.num_bytes + 2000  # names and shapes stand beside them


def test_an_unknown_dtype_is_refused():
    with pytest.raises(SettingsError, match="`dtype` must be auto, float16, float32 or int8"):
        SMALL.with_values({"dtype": "int4"})


@pytest.mark.parametrize(("far", "times"), [(0.0, 1), (1.5, 0)])
def test_training_that_diverges_is_said_once(tmp_path, caplog, monkeypatch, far, times):
    monkeypatch.setattr("farzi.distill.run.FAR_WORSE", far)
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    said = [line for line in caplog.messages if "their training diverges" in line]
    assert len(said) == times


def test_what_is_said_of_training_that_diverges():
    assert diverged(7.0, 1000) == ""
    assert diverged(15146929.0, 1000) == (
        "students of the start have a validation loss of 1.51e+07, far above that of guessing "
        "(6.91): their training diverges; lower `inner.optimizer.lr`."
    )
