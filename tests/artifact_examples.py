"""A small artifact for the tests."""

from __future__ import annotations

from typing import Any

import torch

from farzi.artifact import Artifact

SOURCE = {
    "name": "toy",
    "task": "recommend",
    "fingerprint": "sha256:" + "0123456789abcdef" * 4,
    "split_kind": "users",
    "split_seed": 0,
    "train_users_hash": "sha256:" + "f" * 64,
    "seen_items": "keep",
    "protocol": {"k_core": 0, "repeats": "keep", "ties": "source order"},
}


def toy_artifact(**changes: Any) -> Artifact:
    """Return an artifact of 3 sequences of 4 tokens over 5 items, rank 2."""
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "latent": torch.randn(3, 4, 2, generator=generator),
        "decoder": torch.randn(2, 5, generator=generator),
        "temperature": 0.5,
        "learned": {"lr": torch.tensor(0.01)},
        "recipe": {"student": "sasrec", "steps": 20, "optimizer": {"name": "adam", "lr": 0.01}},
        "source": SOURCE,
        "scores": {"validation": {"ndcg@10": 0.25}},
        "vocabulary": ["B0001", "B0007", "é", "d", "e"],
    }
    return Artifact(**fields | changes)
