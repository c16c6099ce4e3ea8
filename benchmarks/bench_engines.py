"""Time a step and peak memory of every engine on the workload, in one run, taken in turns.

    python benchmarks/bench_engines.py             writes benchmarks/results/engines.json

Peers that are not installed are reported as such. They may live in another environment:
FARZI_PEERS_PYTHON names its interpreter (benchmarks/requirements.txt lists them).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "engines.json"
PEERS = ("autograd", "torchopt", "higher", "jax", "jax.checkpoint")
OURS = ("farzi Stored", "farzi Reversible", "farzi Stored, generic", "farzi Reversible, generic")


class Child:
    """One engine in a process of its own."""

    def __init__(self, engine: str, steps: int, head: str, threads: int) -> None:
        peer = not engine.startswith(("farzi", "autograd"))
        python = os.environ.get("FARZI_PEERS_PYTHON", sys.executable) if peer else sys.executable
        command = [python, "-m", "benchmarks.child", "--engine", engine, "--head", head]
        command += ["--steps", str(steps), "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.ready = self._read() == "ready"

    def ask(self, command: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return float(json.loads(self._read()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def measure(
    engines: list[str], steps: int, heads: tuple[str, ...], rounds: int, threads: int
) -> list[dict]:
    """One row an engine and head; children are timed in turns, so that drift hits all alike."""
    children = {}
    rows = []
    for engine in engines:
        for head in heads if engine in PEERS else ("logsumexp",):
            child = Child(engine, steps, head, threads)
            if child.ready:
                children[engine, head] = child
            else:
                child.close()
                rows.append({"engine": engine, "head": head, "steps": steps, "installed": False})
    times: dict[tuple[str, str], list[float]] = {key: [] for key in children}
    for _ in range(rounds):
        for key, child in children.items():
            times[key].append(child.ask("time") / steps * 1e3)
    for (engine, head), child in children.items():
        rows.append(
            {
                "engine": engine,
                "head": head,
                "steps": steps,
                "installed": True,
                "ms_per_step": statistics.median(times[engine, head]),
                "ms_per_step_all": times[engine, head],
                "peak_bytes": child.ask("memory"),
            }
        )
        child.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heads", nargs="+", default=["logsumexp", "log_softmax"])
    parser.add_argument("--engines", nargs="+", default=[*PEERS, *OURS])
    options = parser.parse_args()
    import torch

    record = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "threads": options.threads,
        "rounds": options.rounds,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "rows": [],
    }
    for steps in options.steps:
        record["rows"] += measure(
            options.engines, steps, tuple(options.heads), options.rounds, options.threads
        )
        draft = RESULTS.with_name(f".{RESULTS.name}")
        draft.write_text(json.dumps(record, indent=2) + "\n")
        draft.rename(RESULTS)
    for row in record["rows"]:
        shown = "not installed"
        if row["installed"]:
            shown = f"{row['ms_per_step']:8.1f} ms a step {row['peak_bytes'] / 1e6:9.1f} MB"
        print(f"T={row['steps']:<4} {row['engine']:28} {row['head']:12} {shown}")


if __name__ == "__main__":
    main()
