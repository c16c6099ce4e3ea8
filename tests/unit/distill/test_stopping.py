"""A stop is honoured between two inner steps, wherever a run is, and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from farzi.distill import distill
from toy import SMALL, ended_by, toy_data, write_log


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Asked:
    """Answers True from the n-th time that it is asked on, and says what was going on."""

    def __init__(self, number):
        self.number, self.count, self.stage = number, 0, "begin"

    def __call__(self):
        self.count += 1
        return self.count >= self.number

    def note(self, stage, done, total, note):
        self.stage = stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    data = toy_data(folder)
    never = Asked(10**9)
    distill(data, folder / "run", SMALL, should_stop=never)
    return data, files(folder / "run/artifact"), never.count


def test_a_run_is_asked_at_every_inner_step(whole):
    teacher_steps, pool_steps = 6, 4
    window_steps = 2 * 4 * 2  # forward and back, of two students
    looks = 2 * 8  # and the look before the first step
    assert whole[2] > teacher_steps + pool_steps + 6 * window_steps + looks


@pytest.mark.parametrize("place", [0.001, 0.02, 0.41, 0.99])
def test_stopped_anywhere_and_resumed_gives_the_same_bytes(whole, tmp_path, place):
    data, expected, count = whole
    asked = Asked(max(1, round(place * count)))
    stopped = distill(data, tmp_path / "run", SMALL, should_stop=asked, report=asked.note)
    assert stopped.artifact is None
    assert stopped.stopped == "asked to stop"
    assert asked.count <= asked.number + 1  # nothing was begun after that
    distill(data, tmp_path / "run", SMALL, resume=True)
    assert files(tmp_path / "run/artifact") == expected


def test_stopped_at_every_stage_in_turn(whole, tmp_path):
    data, expected, count = whole
    stages = []
    for turn in range(40):
        asked = Asked(count // 3)
        run = distill(
            data, tmp_path / "run", SMALL, resume=turn > 0, should_stop=asked, report=asked.note
        )
        stages.append(asked.stage)
        if run.artifact is not None:
            break
    assert len(stages) > 3
    assert files(tmp_path / "run/artifact") == expected


def stop_when_there(running, tmp_path, stage, number, code):
    there = tmp_path / "run" / ("teachers" if stage == "teachers" else "state.safetensors")
    deadline = time.monotonic() + 90
    while not there.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert running.poll() is None, running.stderr.read()
    return ended_by(running, number, code)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("stage", ["teachers", "outer steps"])
def test_a_signal_ends_the_command_within_seconds(tmp_path, number, code, stage):
    log = write_log(tmp_path / "toy.tsv")
    long = SMALL.with_values({"teachers.max_epochs": 10**6, "teachers.patience": 10**6})
    if stage == "outer steps":  # an outer step that takes minutes
        long = SMALL.with_values({"inner.steps": 10**6, "inner.window": 10**5})
        long = long.with_values({"outer.num_students": 1, "outer.steps": 1, "start": "random"})
    (tmp_path / "long.json").write_text(json.dumps(long.as_dict()))
    command = [sys.executable, "-m", "farzi", "distill", str(log), "--task", "recommend"]
    command += ["--config", str(tmp_path / "long.json"), "--out", str(tmp_path / "run")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        said = stop_when_there(running, tmp_path, stage, number, code)
    assert "--resume goes on" in said
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_while_the_source_is_read(tmp_path, number, code):
    """Before there is a run, the command ends where it is."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "import farzi.data\n"
        "def slow(*arguments, **more):\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(60)\n"
        "farzi.data.prepare = slow\n"
        "from farzi.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(script), "distill", "log.tsv", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "reading\n"
        running.send_signal(number)
        try:
            assert running.wait(timeout=60) == code
        finally:
            running.kill()
    assert not (tmp_path / "run").exists()
