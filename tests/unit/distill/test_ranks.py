"""Several processes of one run: teachers shared out, one killed, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farzi.distill import distill, plan_run
from farzi.distill.world import World
from farzi.errors import LostProcessError
from toy import SMALL, toy_data, write_log


def test_teachers_shared_out_are_those_of_one_process(tmp_path: Path) -> None:
    """Three runs over two processes: one of them has two."""
    plan = plan_run(toy_data(tmp_path), SMALL.with_values({"teachers.num_runs": 3}))
    alone = plan.train_teachers(tmp_path / "alone")
    for rank in (1, 0):
        plan.train_share(tmp_path / "shared", rank, 2)
    assert not (tmp_path / "shared/omega.json").exists()
    shared = plan.train_teachers(tmp_path / "shared")
    assert shared.losses == alone.losses
    files = [sorted(each.iterdir()) for each in (tmp_path / "alone", tmp_path / "shared")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_an_exchange_that_fails_says_who_is_missing() -> None:
    world = World(rank=0, size=2)  # nobody else is there
    with pytest.raises((LostProcessError, ValueError), match=r"process 1 of 2|process group"):
        world.wait()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_and_the_run_resumes(tmp_path: Path) -> None:
    log = write_log(tmp_path / "toy.tsv")
    settings = SMALL.with_values({"outer.steps": 60, "outer.patience": 99, "teachers.num_runs": 3})
    (tmp_path / "small.json").write_text(json.dumps(settings.as_dict()))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }

    def command(out: str, port: int, *more: str) -> list[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        launcher += ["--master-port", str(port), "-m", "farzi", "distill", str(log)]
        launcher += ["--task", "recommend", "--config", str(tmp_path / "small.json")]
        return [*launcher, "--no-report", "-q", "--out", str(tmp_path / out), *more]

    subprocess.run(command("whole", 29681), env=environment, check=True, timeout=400)
    with subprocess.Popen(
        command("parts", 29682), env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        state = tmp_path / "parts/state-1.safetensors"
        deadline = time.monotonic() + 300
        while not state.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.poll() is None
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        ranks = {
            Path(f"/proc/{child}/environ").read_bytes().split(b"\0RANK=")[1][:1]: int(child)
            for child in children
            if b"\0RANK=" in Path(f"/proc/{child}/environ").read_bytes()
        }
        os.kill(ranks[b"1"], signal.SIGKILL)
        said = running.communicate(timeout=120)[1]
    assert running.returncode != 0
    ours = [line for line in said.splitlines() if line.startswith("farzi: ")]
    assert len(ours) <= 1, ours  # torchrun may end it before it notices
    assert not (tmp_path / "parts/artifact").exists()
    again = command("parts", 29683, "--resume")
    subprocess.run(again, env=environment, check=True, timeout=400)
    for file in (tmp_path / "whole/artifact").rglob("*"):
        if file.is_file():
            other = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
            assert file.read_bytes() == other.read_bytes(), file.name


def test_one_process_takes_no_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from farzi.distill.run import Plan

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("one process shares nothing out")

    monkeypatch.setattr(Plan, "train_share", refuse)
    assert distill(toy_data(tmp_path), tmp_path / "run", SMALL).artifact is not None
