"""Commands that are killed at random moments and run again, and what must then be there.

A process that has loaded farzi forks one child a command, so that a kill costs what the command
costs and no start-up. A child is killed from outside after a random time, or by itself before its
n-th change to the file system; the second finds the moments between two renames.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_EVENTS = (
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


# ------------------------------------------------------------------------- the forking process


def serve() -> None:
    """Run commands from stdin, a JSON object a line, each in a child of its own."""
    import importlib

    import torch

    for name in (
        "farzi.api", "farzi.report", "farzi.export", "farzi.distill.parse", "farzi.experiments",
        "farzi.experiments.runner", "farzi.experiments.tables", "farzi.data.logs", "duckdb", "ibis",
        "ibis.backends.duckdb", "pyarrow.parquet", "rich.table", "rich.console", "jinja2",
    ):  # fmt: skip
        importlib.import_module(name)
    from farzi.cli import COMMANDS

    for name in COMMANDS:
        importlib.import_module(f"farzi.cli.{name}")
    torch.set_num_threads(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(_run_order(order)) + "\n")
        sys.stdout.flush()


def _run_order(order: Mapping[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(order)
    late = False
    kill_s, most_s = order.get("kill_s"), order["most_s"]
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        now_s = time.monotonic() - began
        if (kill_s is not None and now_s >= kill_s) or now_s > most_s:
            late = now_s > most_s
            number = signal.SIGKILL if late else order.get("signal", signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if late or order.get("group") else os.kill)(child, number)
            kill_s = None
        time.sleep(0.002)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "late": late,
    }


def _be_child(order: Mapping[str, Any]) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        folder = Path(order["cwd"])
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            opened = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
        if order.get("file_size") is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"],) * 2)
        if order.get("uid") is not None:
            os.setgid(order["uid"])
            os.setuid(order["uid"])
        _watch(folder, order.get("event"), order.get("count"))
        from farzi import cli

        sys.argv = ["farzi", *order["arguments"]]
        code = cli.main(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        if order.get("count"):
            Path(order["count"]).write_text(str(_changes))
    finally:
        os._exit(code)


_changes = 0


def _watch(folder: Path, event: int | None, count: str | None) -> None:
    """Count changes to the file system below `folder`; die before the one numbered `event`."""
    if event is None and count is None:
        return
    root = str(folder.resolve())

    def see(name: str, arguments: tuple[Any, ...]) -> None:
        global _changes
        if name == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif name in FILE_EVENTS:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not str(Path(os.fsdecode(path)).absolute()).startswith(root):
            return
        _changes += 1
        if _changes == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)


# ------------------------------------------------------------------------------- who asks for it


@dataclass
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    out: str
    err: str
    late: bool


class Commands:
    """Runs commands in children of one process that has everything loaded."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
        }
        code = "import crash_campaign; crash_campaign.serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __call__(
        self, cwd: Path, arguments: Sequence[str], *, most_s: float = 900, **more: Any
    ) -> Ended:
        """Run a command line in a folder; `kill_s`, `event` and `file_size` say what befalls it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        out, err = self.log / "stdout", self.log / "stderr"
        order = {
            "cwd": str(cwd),
            "arguments": [str(argument) for argument in arguments],
            "stdout": str(out),
            "stderr": str(err),
            "most_s": most_s,
            **more,
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        return Ended(**ended, out=out.read_text(), err=err.read_text())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=300)
        self.process.stdout.close()


# ---------------------------------------------------------------------------------- campaigns

# Clock times, and `went_on`: whether the seconds beside it are of a run that was taken up again.
_CLOCKS = re.compile(r"wall_s|.*seconds|.*_s|train_wall.*|went_on")


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if not _CLOCKS.fullmatch(name)}
        if "curve" in kept:  # (step, seconds, loss) of every look
            kept["curve"] = [[look[0], *look[2:]] for look in kept["curve"]]
        return {name: _without_clocks(inner) for name, inner in kept.items()}
    return [_without_clocks(inner) for inner in value] if isinstance(value, list) else value


def tree(folder: Path) -> dict[str, Any]:
    """Every path below a folder with its content; of records, what is no clock time."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_without_clocks(json.loads(line)) for line in lines]
        elif path.suffix == ".html":  # the page shows clock times
            found[name] = path.read_text().rstrip().endswith("</html>")
        else:
            found[name] = path.read_bytes()
    return found


@dataclass(frozen=True)
class Case:
    """A command, and how it is taken up again.

    Args:
        name: of the command.
        arguments: of the first call.
        again: of the next call, from the folder as the killed process left it.
        stage: what the killed process was doing, from what it left.
        makes: what the first call starts from, made in an empty folder.
        idle: the share of the time, at its start, in which nothing is made yet.
    """

    name: str
    arguments: Sequence[str]
    again: Callable[[Path], Sequence[str]]
    stage: Callable[[Path], str]
    makes: Callable[[Path], None] = lambda folder: None
    idle: float = 0.0


@dataclass
class Campaign:
    """What came of killing a command again and again."""

    name: str
    rounds: int = 0
    same: int = 0
    kills: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {count}" for name, count in sorted(self.stages.items()))
        return (
            f"crash campaign, {self.name}: {self.same}/{self.rounds} the same bytes and nothing "
            f"left over after {self.kills} kills ({stages})"
        )


def run_campaign(case: Case, commands: Commands, folder: Path, rounds: int, seed: int) -> Campaign:
    """Kill a command `rounds` times, take it up again, and compare with an undisturbed run."""
    draw = random.Random(f"{case.name} {seed}")
    whole = folder / "whole"
    whole.mkdir(parents=True)
    case.makes(whole)
    count = folder / "count"
    first = commands(whole, case.arguments, count=str(count))
    assert first.code == 0, first.err
    expected, changes = tree(whole), int(count.read_text())
    campaign = Campaign(case.name)
    while campaign.rounds < rounds:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        case.makes(work)
        arguments = case.arguments
        killed = 0
        for turn in range(3):
            last = turn == 2 or (turn == 1 and draw.random() < 0.7)
            how: dict[str, Any] = {}
            if not last:
                by_event = draw.random() < 0.5
                how = (
                    {"event": draw.randint(1, changes)}
                    if by_event
                    else {
                        "kill_s": draw.uniform(case.idle, 1) * first.seconds,
                        "group": draw.random() < 0.5,  # or the workers are left alone
                    }
                )
            ended = commands(work, arguments, **how)
            if ended.code == -signal.SIGKILL:
                killed += 1
                campaign.kills += 1
                campaign.stages[case.stage(work)] += 1
                arguments = case.again(work)
                continue
            break
        if not killed:
            continue  # it was done before its time: no round
        campaign.rounds += 1
        fault = _fault(expected, tree(work), ended)
        if fault is None:
            campaign.same += 1
        else:
            campaign.faults.append(f"round {campaign.rounds}: {how}: {fault}")
    return campaign


def _fault(expected: Mapping[str, Any], found: Mapping[str, Any], ended: Ended) -> str | None:
    if ended.code != 0:
        return f"exit {ended.code}{' too late' if ended.late else ''}: {ended.err[-400:]}"
    if more := sorted(set(found) - set(expected)):
        return f"left over: {more}"
    if less := sorted(set(expected) - set(found)):
        return f"missing: {less}"
    if other := sorted(name for name in expected if expected[name] != found[name]):
        return f"different: {other}"
    return None
