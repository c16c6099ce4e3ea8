"""`artifact`: the same artifact with smaller numbers, and what that changes."""

from __future__ import annotations

from pathlib import Path

import torch

from farzi.artifact import Artifact, write_artifact
from farzi.dataset import DistilledDataset
from farzi.export.base import Export, ExportSettings

__all__ = ["HARD_ENOUGH", "deviation", "export_artifact"]

HARD_ENOUGH = 0.99
"""The mean probability of the likeliest token from which `auto` stores ids."""


def export_artifact(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write an artifact with factors of another dtype, or with its tokens as ids.

    Raises:
        ArtifactError: hard tokens are asked for where tokens are labels as well, or a number is
            beyond what float16 holds.
        SettingsError: something is at `out`.
    """
    before = data.artifact
    after = before.rounded(settings.dtype or before.dtype)
    own = own_probability(before)
    hardens = settings.tokens == "hard" or (
        settings.tokens == "auto" and before.label_latent is not None and own >= HARD_ENOUGH
    )
    if hardens:
        after = after.hardened()
    write_artifact(after, out, overwrite=settings.overwrite)
    facts = {
        "bytes_before": before.num_bytes,
        "bytes": after.num_bytes,
        "tokens": "hard" if after.has_hard_tokens else "soft",
        "token_probability": own,
        **deviation(before, after),
    }
    notes = [
        f"{before.num_bytes:,} bytes of tensors became {after.num_bytes:,}.",
        "Total variation between what was and what is stored, mean (largest): "
        f"tokens {facts['tokens_changed']:.1e} ({facts['tokens_changed_most']:.1e})"
        + (
            f", labels {facts['labels_changed']:.1e} ({facts['labels_changed_most']:.1e})."
            if "labels_changed" in facts
            else "."
        ),
    ]
    if after.has_hard_tokens and not before.has_hard_tokens:
        notes.append(f"Tokens are ids now: the likeliest had probability {own:.4f} in the mean.")
    hard = DistilledDataset(after).hard()
    return Export(out, after.num_sequences, hard.coverage, facts, tuple(notes))


def own_probability(artifact: Artifact) -> float:
    """Return the mean probability of the likeliest token: 1 where tokens are hard."""
    if artifact.has_hard_tokens:
        return 1.0
    total, few, mask = 0.0, artifact.synthetic, artifact.synthetic.mask()
    for index in range(artifact.num_sequences):
        own = few.tokens(torch.tensor([index]))[0].amax(-1)
        total += float((own if mask is None else own[mask[index]]).sum())
    return total / artifact.num_tokens


def deviation(before: Artifact, after: Artifact) -> dict[str, float]:
    """Return how far the soft tokens and labels of two artifacts lie apart.

    The total variation at a place is half the sum of the absolute differences: the largest
    difference in probability of any set of tokens.

    Returns:
        `tokens_changed` and, where there are labels, `labels_changed`: the mean over real places;
        with `_most` the largest.
    """
    found: dict[str, float] = {}
    mask = before.synthetic.mask()
    for kind in ("tokens", "labels"):
        total, most = 0.0, 0.0
        for index in range(before.num_sequences):
            chosen = torch.tensor([index])
            rows = [_soft(artifact, kind, chosen) for artifact in (before, after)]
            if rows[0] is None or rows[1] is None:
                break
            apart = (rows[0] - rows[1]).abs().sum(-1)[0] / 2
            apart = apart if mask is None else apart[mask[index]]
            total, most = total + float(apart.sum()), max(most, float(apart.max()))
        else:
            found |= {f"{kind}_changed": total / before.num_tokens, f"{kind}_changed_most": most}
    return found


def _soft(artifact: Artifact, kind: str, chosen: torch.Tensor) -> torch.Tensor | None:
    few = artifact.synthetic
    rows = few.probabilities(chosen) if kind == "tokens" else few.labels(chosen)
    return None if rows is None else rows.double()
