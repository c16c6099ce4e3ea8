"""A distilled dataset that says something simple: the items go round in a circle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from artifact_examples import toy_artifact
from farzi.artifact import write_artifact

NUM_ITEMS, LENGTH = 12, 9


def write_circle(folder: Path, *, hard: bool = False, **changes: Any) -> Path:
    """Write an artifact that says: the item after i is i + 1, and after the last the first."""
    tokens = (torch.arange(NUM_ITEMS)[:, None] + torch.arange(LENGTH)) % NUM_ITEMS
    near = torch.nn.functional.one_hot(tokens, NUM_ITEMS).float() * 8
    fields = {
        "latent": near,
        "label_latent": near.roll(1, -1),
        "decoder": torch.eye(NUM_ITEMS),
        "temperature": 1.0,
        "vocabulary": [100 + item for item in range(NUM_ITEMS)],
    }
    artifact = toy_artifact(**fields | changes)
    return write_artifact(artifact.hardened() if hard else artifact, folder / "artifact").parent
