"""A small log with structure: every user walks one of three circles of items."""

import numpy as np

from farzi.data import prepare
from farzi.distill import DistillSettings

SMALL = DistillSettings(
    num_sequences=6,
    length=8,
    latent_dim=4,
    width=8,
    num_teachers=1,
    teacher_epochs=6,
    outer_steps=6,
    outer_batch=8,
    inner_steps=8,
    window=4,
    inner_batch=3,
    num_students=2,
    starts_per_step=2,
    validate_every=3,
    validation_seeds=1,
)


def write_log(path, num_users=60, num_items=12, seed=0):
    generator = np.random.default_rng(seed)
    lines = ["user_id\titem_id\ttimestamp"]
    for user in range(num_users):
        step = 1 + user % 3
        item = int(generator.integers(num_items))
        for time in range(int(generator.integers(6, 14))):
            lines.append(f"u{user}\ti{item}\t{time}")
            item = (item + step) % num_items
    path.write_text("\n".join(lines) + "\n")
    return path


def toy_data(tmp_path, **kwargs):
    return prepare(str(write_log(tmp_path / "toy.tsv")), task="recommend", **kwargs)
