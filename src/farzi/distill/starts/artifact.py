"""Yesterday's run: today's log is distilled from what an earlier one was distilled to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from farzi.artifact import Artifact, read_artifact
from farzi.data.sequences import Sequences
from farzi.distill.starts.base import StartInputs, fit_latents
from farzi.errors import ArtifactError, SettingsError
from farzi.synthetic import SyntheticSequences

__all__ = ["ArtifactStart", "decoder_for"]

WITHOUT_USERS = ("leave-last-out", "official")  # splits in which no user changes sides


@dataclass(frozen=True)
class ArtifactStart:
    """The sequences of an artifact, their tokens matched by original id.

    Sizes and student are the artifact's unless others are asked for. Tokens that the source no
    longer has are dropped. A new one begins as the mean of the decoder's columns of the known
    tokens around it in the training sequences, each as often as it is there; one that stands by no
    known token, as the mean of those of the nearest popularity.

    Args:
        run: folder of the run or the artifact.
        other_users: accept an artifact that was distilled from other users than today's training
            users. Today's test users may then be among them, and scores be better than they
            should; without it, such an artifact is refused where users are split.
    """

    name: ClassVar[str] = "artifact"
    needs_teachers: ClassVar[bool] = False

    run: str = ""
    other_users: bool = False

    @property
    def suggests(self) -> Mapping[str, Any]:
        """The sizes of the artifact's sequences, and its student."""
        artifact = _read(self.run)
        latent_dim = artifact.decoder.shape[0]
        sizes = {"num_sequences": artifact.num_sequences, "length": artifact.length}
        student = artifact.recipe.get("student")
        values: dict[str, Any] = {
            **sizes,
            "latent_dim": latent_dim,
            "labels": artifact.label_latent is not None,
        }
        if isinstance(student, Mapping) and student.get("name") not in ("module", "huggingface"):
            own = ("num_tokens", "context_length", "dropout")
            values["student"] = {name: x for name, x in student.items() if name not in own}
        return values

    def check(self, inputs: StartInputs) -> tuple[str, ...]:
        """Raise where the artifact is of another size or task, or of users it must not know."""
        artifact = _read(self.run)
        here = {
            "num_sequences": artifact.num_sequences,
            "length": artifact.length,
            "latent_dim": artifact.decoder.shape[0],
            "labels": artifact.label_latent is not None,
        }
        for name, value in here.items():
            if getattr(inputs, name) != value:
                raise SettingsError(
                    f"`{name}` must be {value}, as in {self.run}, got {getattr(inputs, name)}."
                )
        source = artifact.source
        if source["task"] != inputs.data.task:
            raise ArtifactError(f"{self.run}: is for {source['task']}, not {inputs.data.task}.")
        if not set(artifact.vocabulary) & set(inputs.data.vocabulary.ids):
            raise ArtifactError(f"{self.run}: has no token in common with {inputs.data.name}.")
        same = source["train_users_hash"] == inputs.data.train_users_hash
        kinds = {str(source["split_kind"]), inputs.data.split_kind}
        if same or (len(kinds) == 1 and kinds <= set(WITHOUT_USERS)):
            return ()
        what = f"{self.run} was distilled from other users than today's training users"
        if not self.other_users:
            raise ArtifactError(
                f"{what}, and today's test users may be among them: split both by "
                "leave-last-out, or accept it by start.other_users=true."
            )
        return (f"{what}: scores on today's test users may be better than they should.",)

    def __call__(self, inputs: StartInputs) -> SyntheticSequences:
        """The artifact's sequences with a decoder for the tokens of today."""
        artifact = _read(self.run)
        latent = artifact.latent
        if artifact.has_hard_tokens:
            latent = fit_latents(artifact.decoder, latent) * artifact.temperature
        labels = artifact.label_latent
        old = {original: token for token, original in enumerate(artifact.vocabulary)}
        matched = np.array([old.get(original, -1) for original in inputs.data.vocabulary.ids])
        decoder = decoder_for(artifact.decoder, matched, inputs.train_sequences)
        start = SyntheticSequences(
            latent / artifact.temperature,
            decoder,
            None if labels is None else labels / artifact.temperature,
            artifact.lengths,
        )
        return inputs.at_temperature(start)


def decoder_for(
    decoder: Tensor, matched: np.ndarray, sequences: Sequences, window: int = 5
) -> Tensor:
    """A decoder for other tokens.

    Args:
        decoder: M (K, V) of the earlier tokens.
        matched: (V',) for each token of today its earlier one, or -1.
        sequences: training sequences of today.
        window: how many events apart two tokens count as standing together.

    Returns:
        M' (K, V'): the earlier column where there is one, else a mean of such columns.

    Example:
        >>> import numpy as np, torch
        >>> from farzi.data.sequences import Sequences
        >>> from farzi.distill.starts.artifact import decoder_for
        >>> decoder_for(torch.tensor([[1.0, 3.0]]), np.array([1, -1, 0]),
        ...             Sequences.from_lists([[0, 1, 2], [0, 2]]))
        tensor([[3., 2., 1.]])
    """
    num_tokens = len(matched)
    known = matched >= 0
    columns = torch.zeros(decoder.shape[0], num_tokens)
    columns[:, torch.from_numpy(known)] = decoder[:, torch.from_numpy(matched[known])]
    tokens, ends = np.asarray(sequences.tokens, np.int64), sequences.offsets[1:]
    owner = np.searchsorted(ends, np.arange(len(tokens)), side="right")
    total = torch.zeros(num_tokens, decoder.shape[0])
    weight = torch.zeros(num_tokens)
    for gap in range(1, window + 1):
        same = owner[:-gap] == owner[gap:]
        for here, there in (
            (tokens[:-gap][same], tokens[gap:][same]),
            (tokens[gap:][same], tokens[:-gap][same]),
        ):
            counts = ~known[here] & known[there]
            new, old = torch.from_numpy(here[counts]), torch.from_numpy(there[counts])
            total.index_add_(0, new, columns.T[old])
            weight.index_add_(0, new, torch.ones(len(new)))
    beside = weight > 0
    columns[:, beside] = (total[beside] / weight[beside][:, None]).T
    popularity = np.bincount(tokens, minlength=num_tokens)
    for token in np.flatnonzero(~known & ~beside.numpy()):
        apart = np.abs(popularity[known] - popularity[token])
        nearest = np.flatnonzero(known)[apart == apart.min()]
        columns[:, token] = columns[:, torch.from_numpy(nearest)].mean(1)
    return columns


def _read(run: str) -> Artifact:
    if not run:
        raise SettingsError("`start.run` must be the run to begin from: --from RUN.")
    return read_artifact(run)
