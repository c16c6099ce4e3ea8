"""Time a step and peak memory of every engine on the workload, in one run.

    python benchmarks/bench_engines.py             writes benchmarks/results/engines.json

Every engine runs in a process of its own. All are timed in turns, one call each a round, so that
drift hits all alike; the figure is the median over the rounds. Peers are timed with both ways of
writing the loss at the smallest number of steps and with their faster one at the others. Peers that
are not installed are reported as such. They may live in another environment: FARZI_PEERS_PYTHON
names its interpreter (benchmarks/requirements.txt lists them).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

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
PACKAGES = ("torch", "torchopt", "higher", "jax", "optax")


@dataclass
class Row:
    """One engine with one way of writing the loss; `gradient_error` is relative to autograd's."""

    engine: str
    head: str
    steps: int
    installed: bool = True
    ms_per_step: float | None = None
    ms_per_step_all: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    gradient_error: float | None = None


class Child:
    """One engine in a process of its own."""

    def __init__(self, row: Row, threads: int) -> None:
        command = [interpreter(row.engine), "-m", "benchmarks.child", "--engine", row.engine]
        command += ["--head", row.head, "--steps", str(row.steps), "--threads", str(threads)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.ready = self._read() == "ready"

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
        return self._process.stdout.readline().strip()


def interpreter(engine: str) -> str:
    """The Python that has `engine`: the project's own for what it needs no peer for."""
    own = engine.startswith(("farzi", "autograd"))
    return sys.executable if own else os.environ.get("FARZI_PEERS_PYTHON", sys.executable)


def measure(rows: list[Row], rounds: int, threads: int, folder: Path) -> None:
    """Fill `rows`: every engine is started and run twice untimed, then all are timed in turns."""
    children: list[tuple[Row, Child]] = []
    for row in rows:
        child = Child(row, threads)
        row.installed = child.ready
        if child.ready:
            row.peak_bytes = int(child.ask("memory"))
            child.ask(f"gradient {folder / name_of(row)}")
            children.append((row, child))
        else:
            child.close()
        print(f"T={row.steps} {row.engine}, {row.head}: {row.peak_bytes} bytes", flush=True)
    for number in range(rounds):
        for row, child in children:
            row.ms_per_step_all.append(round(1e3 * child.ask("time") / row.steps, 3))
        print(f"T={rows[0].steps}: round {number + 1} of {rounds}", flush=True)
    for row, child in children:
        child.close()
        row.ms_per_step = round(statistics.median(row.ms_per_step_all), 3)
        row.gradient_error = gradient_error(row, folder)


def name_of(row: Row) -> str:
    return re.sub(r"\W+", "_", f"{row.engine} {row.head} {row.steps}") + ".npy"


def gradient_error(row: Row, folder: Path) -> float | None:
    """Relative difference of the meta-gradient from autograd's with the same loss, centred.

    The two losses differ by a constant a row of P, which no soft token can follow.
    """
    reference = folder / name_of(Row("autograd", "logsumexp", row.steps))
    if not reference.exists():
        return None

    def centred(path: Path) -> np.ndarray:
        gradient = np.load(path).astype(np.float64)
        return gradient - gradient.mean(-1, keepdims=True)

    expected = centred(reference)
    difference = centred(folder / name_of(row)) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def versions() -> dict[str, str]:
    """Versions of the packages, asked of the environment that runs them."""
    script = (
        "import importlib.metadata as m\n"
        f"for n in {PACKAGES!r}:\n"
        "  try: print(n, m.version(n))\n"
        "  except m.PackageNotFoundError: pass"
    )
    found = {"python": platform.python_version()}
    for engine in ("jax", "autograd"):
        command = [interpreter(engine), "-c", script]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found |= dict(line.split() for line in listed.splitlines())
    return found


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def write(rows: list[Row], options: argparse.Namespace) -> None:
    """Replace the results by those so far."""
    record = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {processor()}",
        "threads": options.threads,
        "timed_calls": options.rounds,
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
    write_json(RESULTS, record)


def write_json(path: Path, record: dict[str, object]) -> None:
    """Replace a file of results."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=[*PEERS, *OURS])
    options = parser.parse_args()
    faster = dict.fromkeys(options.engines, HEADS)
    faster |= dict.fromkeys(OURS, HEADS[:1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in sorted(options.steps):
            new = [Row(e, head, steps) for e in options.engines for head in faster[e]]
            measure(new, options.rounds, options.threads, Path(folder))
            for engine in options.engines:
                timed = [r for r in new if r.engine == engine and r.ms_per_step is not None]
                if timed:
                    faster[engine] = (min(timed, key=lambda r: r.ms_per_step or 0.0).head,)
            rows += new
            write(rows, options)


if __name__ == "__main__":
    main()
