"""Time a step and peak memory of every engine on the workload, in one run.

    python benchmarks/bench_engines.py             writes benchmarks/results/engines.json

Every engine runs in a process of its own. All are timed in turns, one call each a round, so that
drift hits all alike; the figure is the median over the rounds. The results are written after every
round, and the rounds end when the minutes are over: cut off, it has lost nothing. Peers are timed
with both ways of writing the loss at the smallest number of steps and with their faster one at the
others. Peers that are not installed are reported as such. They may live in another environment:
FARZI_PEERS_PYTHON names its interpreter (benchmarks/requirements.txt lists them).
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from farzi.data.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "engines.json"
HEADS = ("logsumexp", "log_softmax")
PEERS = ("autograd", "torchopt", "higher", "jax", "jax.checkpoint")
OURS = (
    "farzi Stored",
    "farzi Reversible",
    "farzi Stored, generic",
    "farzi Stored graphs, generic",
    "farzi Stored compiled, generic",
    "farzi Reversible, generic",
)
WEIGHTS = "data weights"
LEAST_S = 20.0  # seconds that an engine has to start and to run twice
PACKAGES = ("torch", "torchopt", "higher", "bergson", "jax", "optax")


@dataclass
class Row:
    """One engine with one way of writing the loss; `gradient_error` is relative to autograd's."""

    engine: str
    head: str
    steps: int
    installed: bool = True
    in_time: bool = True
    ms_per_step: float | None = None
    ms_per_step_all: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    gradient_error: float | None = None

    def add(self, seconds: float) -> None:
        """Note one timed call."""
        self.ms_per_step_all.append(round(1e3 * seconds / self.steps, 3))
        self.ms_per_step = round(statistics.median(self.ms_per_step_all), 3)


class OutOfTimeError(Exception):
    """An engine did not answer before its time was over."""


class Child:
    """One engine in a process of its own.

    Args:
        until: the time (`time.monotonic`) after which no answer is waited for.
    """

    def __init__(self, row: Row, threads: int, until: float, task: str) -> None:
        command = [interpreter(row.engine), "-m", "benchmarks.child", "--engine", row.engine]
        command += ["--head", row.head, "--steps", str(row.steps), "--threads", str(threads)]
        self._until = until
        self._process = subprocess.Popen(
            [*command, "--task", task],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def is_ready(self) -> bool:
        """Whether the engine is installed and has run once."""
        return self._read() == "ready"

    def ask(self, command: str) -> float:
        """The answer to one command of `benchmarks.child`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return float(json.loads(self._read()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        left = max(0.0, self._until - time.monotonic())
        if not select.select([self._process.stdout], [], [], left)[0]:
            raise OutOfTimeError
        return self._process.stdout.readline().strip()


def interpreter(engine: str) -> str:
    """The Python that has `engine`: the project's own for what it needs no peer for."""
    own = engine.startswith(("farzi", "autograd"))
    return sys.executable if own else os.environ.get("FARZI_PEERS_PYTHON", sys.executable)


def measure(
    rows: list[Row],
    options: argparse.Namespace,
    until: float,
    folder: Path,
    keep: Callable[[], None],
    task: str = "soft tokens",
) -> None:
    """Fill `rows`: every engine is started and run twice untimed, then all are timed in turns.

    Calls `keep` whenever there is something new, and ends at `until`.
    """
    children: list[tuple[Row, Child]] = []
    start_until = time.monotonic() + 0.6 * (until - time.monotonic())
    for started, row in enumerate(rows):
        own = share(start_until, len(rows) - started)
        child = Child(row, options.threads, max(own, time.monotonic() + LEAST_S), task)
        try:
            row.installed = child.is_ready()
            if row.installed:
                row.peak_bytes = int(child.ask("memory"))
                child.ask(f"gradient {folder / name_of(row)}")
                row.gradient_error = gradient_error(row, folder, rows[0], centre=task != WEIGHTS)
                children.append((row, child))
        except (OutOfTimeError, ValueError):
            row.in_time = False
        if not children or children[-1][1] is not child:
            child.close()
        print(f"T={row.steps} {row.engine}, {row.head}: {row.peak_bytes} bytes", flush=True)
        keep()
    for number in range(options.rounds):
        for row, child in children:
            child._until = until
            try:
                row.add(child.ask("time"))
            except (OutOfTimeError, ValueError):
                print(f"T={row.steps}: out of time in round {number + 1}", flush=True)
                break
        else:
            print(f"T={rows[0].steps}: round {number + 1} of {options.rounds}", flush=True)
            keep()
            continue
        break
    keep()
    for _, child in children:
        child.close()


def name_of(row: Row) -> str:
    return re.sub(r"\W+", "_", f"{row.engine} {row.head} {row.steps}") + ".npy"


def gradient_error(row: Row, folder: Path, first: Row, *, centre: bool) -> float | None:
    """Relative difference of the meta-gradient from that of the `first` engine.

    Gradients of soft tokens are centred: the two ways of writing the loss differ by a constant a
    row of P, which no soft token can follow.
    """
    reference = folder / name_of(first)
    if not reference.exists():
        return None

    def read(path: Path) -> np.ndarray:
        gradient = np.load(path).astype(np.float64)
        return gradient - gradient.mean(-1, keepdims=True) if centre else gradient

    expected = read(reference)
    difference = read(folder / name_of(row)) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def versions() -> dict[str, str]:
    """Versions of the packages, asked of the environments that run them: ours, and the peers'."""
    script = (
        "import importlib.metadata as m\n"
        f"for n in {PACKAGES!r}:\n"
        "  try: print(n, m.version(n))\n"
        "  except m.PackageNotFoundError: pass"
    )
    found = {"python": platform.python_version()}
    for engine in ("autograd", "jax"):
        command = [interpreter(engine), "-c", script]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, version in (line.split() for line in listed.splitlines()):
            if found.setdefault(name, version) != version:  # both have it, not the same
                found[f"the peers' {name}"] = version
    return found


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def write(path: Path, rows: list[Row], options: argparse.Namespace) -> None:
    """Replace the results by those so far."""
    record = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {processor()}",
        "threads": options.threads,
        "timed_calls": options.rounds,
        "versions": _versions(),
        "rows": [asdict(row) for row in rows],
    }
    write_json(path, record)


def write_json(path: Path, record: dict[str, object]) -> None:
    """Replace a file of results."""
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")


@functools.cache
def _versions() -> dict[str, str]:
    return versions()


def share(until: float, parts_left: int) -> float:
    """The end of the next of `parts_left` equal parts of the time that is left."""
    now = time.monotonic()
    return now + (until - now) / parts_left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=[*PEERS, *OURS])
    parser.add_argument("--minutes", type=float, default=7.0, help="all of it ends after these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    faster = dict.fromkeys(options.engines, HEADS)
    faster |= dict.fromkeys(OURS, HEADS[:1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for done, steps in enumerate(sorted(options.steps)):
            new = [Row(e, head, steps) for e in options.engines for head in faster[e]]
            rows += new
            measure(
                new,
                options,
                share(until, len(options.steps) - done),
                Path(folder),
                functools.partial(write, options.out, rows, options),
            )
            for engine in options.engines:
                timed = [r for r in new if r.engine == engine and r.ms_per_step is not None]
                if timed:
                    faster[engine] = (min(timed, key=lambda r: r.ms_per_step or 0.0).head,)


if __name__ == "__main__":
    main()
