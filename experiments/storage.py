"""What it costs to store an artifact in fewer bytes: how far tokens and labels move, and the loss.

    python experiments/storage.py runs/stdlib-calls runs/ml-100k [--data-root ROOT]

writes experiments/results/storage.json: each run's artifact in every dtype, with soft and with hard
tokens, and the validation loss of fresh students trained on each (the recipe's student and rate).
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from farzi.artifact import Artifact, locate_artifact, read_artifact
from farzi.artifact.storage import DTYPES
from farzi.evaluation import sequences_of, validation_loss
from farzi.export.artifact import deviation
from farzi.models import build_student
from farzi.provenance import read_again, remembered_by
from farzi.training import SyntheticBatches, TrainSettings, train

SEEDS = 2
STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path)
    asked = parser.parse_args()
    more = {} if asked.data_root is None else {"data_root": asked.data_root}
    rows = []
    for run in asked.runs:
        before = read_artifact(locate_artifact(run))
        remembered = replace(remembered_by(run), origin=None)
        data = read_again(remembered, before.source["name"], **more)
        held_out = sequences_of(data, "validation")
        kinds = [before, before.hardened()] if before.label_latent is not None else [before]
        for kind in kinds:
            for dtype in DTYPES:
                after = kind.rounded(dtype)
                losses = [loss_of(after, held_out, seed) for seed in range(SEEDS)]
                rows.append(
                    {
                        "source": str(before.source["name"]),
                        "tokens": "hard" if after.has_hard_tokens else "soft",
                        "dtype": dtype,
                        "bytes": after.num_bytes,
                        **deviation(before, after),
                        "loss": statistics.fmean(losses),
                        "loss_spread": statistics.stdev(losses),
                    }
                )
                print(rows[-1], flush=True)
    protocol = (
        "Changed: total variation between the soft tokens (labels) as distilled in float32 and as "
        "stored, mean (largest) over places. Loss: of validation events, of fresh students with "
        f"the recipe's settings, the best look within {STEPS} steps, mean ± standard deviation "
        f"over {SEEDS} seeds."
    )
    out = Path(__file__).parent / "results" / "storage.json"
    out.write_text(json.dumps({"rows": rows, "protocol": protocol}, indent=2) + "\n")


def loss_of(artifact: Artifact, held_out, seed: int) -> float:
    student = build_student(artifact.recipe["student"])
    batches = SyntheticBatches(artifact.synthetic, int(artifact.recipe["batch_size"]), seed)
    settings = TrainSettings(
        lr=float(artifact.recipe["lr"]), max_steps=STEPS, eval_every=20, patience=5, seed=seed
    )
    return train(
        student, batches, settings, lambda params: validation_loss(student, params, held_out)
    ).loss


if __name__ == "__main__":
    main()
