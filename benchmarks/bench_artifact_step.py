"""What a training step costs on distilled sequences, against one on as many plain tokens.

    python benchmarks/bench_artifact_step.py    writes benchmarks/results/artifact_step.json

A student trains for some steps on each form in turns, several rounds, in one process on one thread;
the figure is the median over rounds of the ratio to plain tokens of the same round, in processor
time. What the numbers in a factor are does not matter to the time, so they are drawn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.bench_engines import processor, versions, write_json
from farzi.cli._common import keep_freed_memory
from farzi.data.sequences import Sequences
from farzi.models import SASRec, Student
from farzi.synthetic import SyntheticSequences
from farzi.training import Batches, RealBatches, SyntheticBatches, TrainSettings, train

RESULTS = Path(__file__).parent / "results" / "artifact_step.json"
SIZES = {  # sequences, length, vocabulary, as of the paper's artifacts
    "MovieLens-100k 50x50": (50, 50, 1682),
    "MovieLens-100k 10x150": (10, 150, 1682),
    "MovieLens-1M 10x150": (10, 150, 3706),
}
RANK, BATCH = 48, 10
PLAIN = "plain tokens"


def forms(sequences: int, length: int, num_tokens: int) -> dict[str, Batches]:
    """The same sequences in every form."""
    generator = torch.Generator().manual_seed(0)

    def factor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    ids = torch.randint(num_tokens, (sequences, length), generator=generator)
    decoder, latent = factor(RANK, num_tokens), factor(sequences, length, RANK)
    labels = factor(sequences, length, RANK)
    # A window of real sequences holds one token more, the target of its last position.
    real = Sequences.from_lists(torch.cat([ids, ids[:, :1]], 1).tolist())
    return {
        PLAIN: RealBatches(real, length, BATCH),
        "ids with soft labels": SyntheticBatches(SyntheticSequences(ids, decoder, labels), BATCH),
        "soft tokens with labels": SyntheticBatches(
            SyntheticSequences(latent, decoder, labels), BATCH
        ),
        "soft tokens as labels": SyntheticBatches(SyntheticSequences(latent, decoder), BATCH),
    }


def seconds_a_step(student: Student, batches: Batches, steps: int) -> float:
    """Processor time of one training step."""
    settings = TrainSettings(max_steps=steps, eval_every=steps)
    trained = train(student, batches, settings, lambda params: 0.0, clock=time.process_time)
    return trained.total_seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for name, (sequences, length, num_tokens) in SIZES.items():
        student = SASRec(num_tokens=num_tokens, context_length=length, width=32)
        every = forms(sequences, length, num_tokens)
        times: dict[str, list[float]] = {form: [] for form in every}
        for number in range(options.rounds + 1):
            for form, batches in every.items():
                took = seconds_a_step(student, batches, options.steps)
                if number:  # the first round warms up
                    times[form].append(took)
        for form, values in times.items():
            ratios = [a / b for a, b in zip(values, times[PLAIN], strict=True)]
            rows.append(
                {
                    "size": name,
                    "form": form,
                    "ms": round(1000 * statistics.median(values), 3),
                    "ratio": round(statistics.median(ratios), 3),
                    "ratios": [round(ratio, 3) for ratio in ratios],
                }
            )
            print(rows[-1], flush=True)
    record = {
        "hardware": f"{os.cpu_count()} cores, {processor()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "batch_size": BATCH,
        "rank": RANK,
        "rows": rows,
    }
    write_json(RESULTS, record)


if __name__ == "__main__":
    main()
