"""A child process that holds one engine and answers `time`, `memory` and `gradient PATH` on stdin.

Every engine gets the same thread count and the same malloc settings, whether it profits or not.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.workload import Run, make

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = 1 << 30

ADAPTERS = {
    "autograd": "plain_autograd",
    "torchopt": "torchopt_engine",
    "higher": "higher_engine",
    "jax": "jax_engine",
    "jax.checkpoint": "jax_engine",
    "farzi Stored": "farzi_engine",
    "farzi Reversible": "farzi_engine",
    "farzi Checkpointed": "farzi_engine",
    "farzi Stored, generic": "farzi_engine",
    "farzi Stored graphs, generic": "farzi_engine",
    "farzi Stored compiled, generic": "farzi_engine",
    "farzi Reversible, generic": "farzi_engine",
}


def builder(engine: str, steps: int, head: str, task: str) -> Run:
    """The engine's `build` with the arguments it needs."""
    if task == "data weights":
        from benchmarks.adapters import data_weights

        return data_weights.build(make(), steps, engine)
    build = import_module(f"benchmarks.adapters.{ADAPTERS[engine]}").build
    if engine == "jax.checkpoint":
        build = partial(build, rematerialise=True)
    if engine.startswith("farzi"):
        build = partial(build, engine=engine)
    return build(make(), steps, head)


def keep_large_blocks() -> ctypes.CDLL | None:
    """Stop glibc from giving freed blocks back to the kernel; None where it is not glibc."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, KEEP)
        libc.mallopt(M_TRIM_THRESHOLD, KEEP)
    except (OSError, AttributeError):
        return None
    return libc


def status_bytes(key: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_above_start(run: Run, libc: ctypes.CDLL | None) -> int:
    """Bytes by which the resident set's high-water mark rises above its size before the call."""
    gc.collect()
    if libc is not None:
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    run()
    return status_bytes("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--task", choices=("soft tokens", "data weights"), default="soft tokens")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--head", default="logsumexp")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # Peers print to stdout too (Bergson's kernels log there): answers have their own stream.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    libc = keep_large_blocks()
    if not options.engine.startswith("jax"):
        import torch

        torch.set_num_threads(options.threads)
    run = builder(options.engine, options.steps, options.head, options.task)
    small = builder(options.engine, 1, options.head, options.task)
    small()
    del small
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        command, *rest = line.split(maxsplit=1)
        if command == "time":
            began = time.perf_counter()
            run()
            answer: object = time.perf_counter() - began
        elif command == "memory":
            answer = peak_above_start(run, libc)
        elif command == "gradient":
            value, gradient = run()
            np.save(rest[0].strip(), gradient)
            answer = value
        else:
            break
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
