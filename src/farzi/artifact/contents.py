"""The artifact as a value, checked when it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from farzi.artifact.checks import check_json, check_keys, check_text, short
from farzi.artifact.layout import LEARNED_PREFIX, TOKENS, Json
from farzi.artifact.storage import Dtype, check_dtype, pack, rounded_to
from farzi.data.identity import SplitIdentity
from farzi.data.tokenizer import Tokenizer
from farzi.errors import ArtifactError
from farzi.synthetic import SyntheticSequences

__all__ = [
    "Artifact",
    "check_seed",
    "check_source",
    "check_split",
    "check_temperature",
    "check_tensors",
    "check_tokenizer",
    "check_vocabulary",
    "is_learned_name",
]

_LEARNED_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_LOGIT = 1e38
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TASKS = ("recommend", "language")
_SOURCE_FIELDS: dict[str, type] = {
    "name": str,
    "task": str,
    "fingerprint": str,
    "split_kind": str,
    "split_seed": int,
    "train_users_hash": str,
    "seen_items": str,
    "protocol": dict,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Artifact:
    """A distilled dataset: what a fresh student trains on, and how it is meant to.

    Checked when it is made; what passes can be written, and what was read has passed.

    Args:
        latent: (S, L, K) float32; or hard tokens (S, L) int64, which need `label_latent`.
        decoder: (K, V) float32. Soft tokens are softmax(latent @ decoder / temperature).
        temperature: > 0.
        label_latent: (S, L, K) float32, the soft labels in the same form; None where each token
            is the label of the one before.
        lengths: (S,) int64 in 1..L, the real places of each sequence; None where all have L.
        recipe: how a student is trained on it (student, optimiser, steps, ...), JSON values.
        source: `name`, `task` (recommend or language), `fingerprint` ("sha256:..."), `split_kind`,
            `split_seed`, `train_users_hash`, `seen_items` (keep or leave-out), `protocol`.
        vocabulary: the V original ids in token order, all int (64 bits) or all str.
        learned: learned hyper-parameters by name, float32, such as `lr` of shape () or (T,).
        scores: what fresh students reached on it, JSON values.
        dtype: how the factors stand on disk: float32, float16, or int8 with a scale a row. Here
            they are float32 always; `rounded` returns them as they will be read.
        tokenizer: what cut the text, where it was one of the user's; its tokens are `vocabulary`.
        hard_token_seed: None for the likeliest token at each place of data/train.parquet, or
            the seed with which they were drawn, once.

    Raises:
        ArtifactError: a field is of the wrong type or shape, not finite, or contradicts another.
    """

    latent: torch.Tensor
    decoder: torch.Tensor
    temperature: float
    recipe: Mapping[str, Json]
    source: Mapping[str, Json]
    vocabulary: Sequence[int] | Sequence[str]
    label_latent: torch.Tensor | None = None
    lengths: torch.Tensor | None = None
    learned: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scores: Mapping[str, Json] = field(default_factory=dict)
    hard_token_seed: int | None = None
    dtype: Dtype = "float32"
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        for name in self.learned:
            if not is_learned_name(name):
                raise ArtifactError(f"`learned` has a name that is not lower-case: {short(name)}.")
        check_tensors(self.tensors)
        check_temperature(self.temperature)
        _check_logits(self.tensors, self.temperature)
        check_json("recipe", self.recipe)
        check_json("scores", self.scores)
        check_source(self.source)
        check_seed(self.hard_token_seed)
        check_dtype(self.dtype)
        check_vocabulary(self.vocabulary, self.vocabulary_size)
        if self.source["task"] == "language" and not isinstance(self.vocabulary[0], str):
            raise ArtifactError("`vocabulary` must be words where the task is language.")
        check_tokenizer(self.source, self.tokenizer, self.vocabulary)

    @property
    def num_sequences(self) -> int:
        """S."""
        return self.latent.shape[0]

    @property
    def length(self) -> int:
        """L, the tokens of each sequence."""
        return self.latent.shape[1]

    @property
    def rank(self) -> int:
        """K, the latent dimension."""
        return self.decoder.shape[0]

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.decoder.shape[1]

    @property
    def num_tokens(self) -> int:
        """The real places of all sequences: S times L where all have L."""
        if self.lengths is None:
            return self.num_sequences * self.length
        return int(self.lengths.sum())

    @property
    def has_hard_tokens(self) -> bool:
        """Whether the tokens are ids and not soft."""
        return not self.latent.is_floating_point()

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors on disk."""
        stored = pack(self.tensors, self.dtype)
        return sum(tensor.numel() * tensor.element_size() for tensor in stored.values())

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that there is, by its name on disk."""
        parts = {
            TOKENS if self.has_hard_tokens else "latent": self.latent,
            "decoder": self.decoder,
            "label_latent": self.label_latent,
            "lengths": self.lengths,
        }
        named = {name: tensor for name, tensor in parts.items() if tensor is not None}
        return named | {LEARNED_PREFIX + name: tensor for name, tensor in self.learned.items()}

    def rounded(self, dtype: Dtype | None = None) -> Artifact:
        """The same artifact with its factors as they will be read again.

        Args:
            dtype: how they stand on disk; the artifact's own when None.

        Raises:
            ArtifactError: a number is beyond what float16 holds.
        """
        dtype = dtype or self.dtype
        check_dtype(dtype)
        tensors = rounded_to(self.tensors, dtype)
        labels = tensors.get("label_latent")
        latent = tensors[TOKENS if self.has_hard_tokens else "latent"]
        return replace(
            self, latent=latent, decoder=tensors["decoder"], label_latent=labels, dtype=dtype
        )

    def hardened(self) -> Artifact:
        """The same artifact with the likeliest token at each place in place of the soft ones.

        Where the soft tokens are as good as hard that changes next to nothing, saves the latent,
        and a step on it costs less. It needs labels of its own.

        Raises:
            ArtifactError: the artifact has no soft labels.
        """
        if self.has_hard_tokens:
            return self
        if self.label_latent is None:
            raise ArtifactError("`label_latent` is missing: tokens that are labels must stay soft.")
        rows = [
            self.synthetic.tokens(torch.tensor([index])).argmax(-1)
            for index in range(self.num_sequences)
        ]
        return replace(self, latent=torch.cat(rows), hard_token_seed=None)

    @property
    def synthetic(self) -> SyntheticSequences:
        """What a student trains on."""
        return SyntheticSequences(
            self.latent, self.decoder, self.label_latent, self.lengths, self.temperature
        )


def check_split(artifact: Artifact, asked: SplitIdentity) -> None:
    """Refuse to score an artifact on a split that it was not distilled for.

    On any other, users that it was distilled from are among those it would be scored on.

    Raises:
        ArtifactError: one line that names what differs, both values and the way out.
    """
    own = SplitIdentity.of(artifact.source)
    if name := own.difference(asked):
        raise ArtifactError(
            f"the artifact was distilled with {name} {short(str(getattr(own, name)))}, not "
            f"{short(str(getattr(asked, name)))}: score it on its own split, or distil one for "
            "this split."
        )


def check_source(source: Mapping[str, Json]) -> None:
    """Check what an artifact says of where it comes from."""
    check_keys("source", source, _SOURCE_FIELDS)
    choices = {"task": _TASKS, "seen_items": ("keep", "leave-out")}
    for name, allowed in choices.items():
        if source[name] not in allowed:
            raise ArtifactError(
                f"`source.{name}` must be {' or '.join(allowed)}, got {short(source[name])}."
            )
    if not _HASH.fullmatch(source["fingerprint"]):
        raise ArtifactError('`source.fingerprint` must be "sha256:" and 64 hexadecimal digits.')
    for name, value in source["protocol"].items():
        if not isinstance(value, str | int | float | None):
            raise ArtifactError(f"`source.protocol.{short(name)}` must be a plain value.")
    check_json("source", source)


def check_tokenizer(
    source: Mapping[str, Json],
    tokenizer: Tokenizer | None,
    vocabulary: Sequence[int] | Sequence[str],
) -> None:
    """Check that a tokenizer is there where a text was cut by one, and is that one."""
    protocol = source["protocol"]
    expected = source["task"] == "language" and protocol.get("tokens") == "tokenizer"
    if expected != (tokenizer is not None):
        what = "is missing" if expected else "is of no use: the tokens are not cut by one"
        raise ArtifactError(f"`tokenizer` {what}.")
    if tokenizer is None:
        return
    if tokenizer.sha256 != protocol.get("tokenizer_sha256"):
        raise ArtifactError("its SHA-256 is not `source.protocol.tokenizer_sha256`.")
    if tuple(vocabulary) != tokenizer.tokens:
        raise ArtifactError("`vocabulary` is not that of the tokenizer.")
    if protocol.get("eos") not in tokenizer.tokens:
        raise ArtifactError("`source.protocol.eos` is not among its tokens.")


def is_learned_name(name: str) -> bool:
    """Return whether a learned hyper-parameter may have this name: `lr`, `lr_decay2`."""
    return _LEARNED_NAME.fullmatch(name) is not None


def check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """Check the tensors of an artifact, named as on disk, one by one and against each other."""
    for name, tensor in tensors.items():
        expected = torch.int64 if name in ("lengths", TOKENS) else torch.float32
        if tensor.dtype != expected:
            raise ArtifactError(f"`{name}` must be {expected}, got {tensor.dtype}.")
        if not tensor.numel():
            raise ArtifactError(f"`{name}` is empty: its shape is {tuple(tensor.shape)}.")
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"`{name}` is not finite everywhere.")
    decoder = tuple(tensors["decoder"].shape)
    labels = tensors.get("label_latent")
    if TOKENS in tensors:
        latent = _check_tokens(tensors[TOKENS], decoder, labels)
    else:
        latent = tuple(tensors["latent"].shape)
        if len(latent) != 3 or len(decoder) != 2 or latent[2] != decoder[0]:
            raise ArtifactError(
                "`latent` must be (S, L, K) and `decoder` (K, V), "
                f"got shapes {latent} and {decoder}."
            )
    if labels is not None and tuple(labels.shape) != latent:
        raise ArtifactError(f"`label_latent` must be {latent}, got shape {tuple(labels.shape)}.")
    lengths = tensors.get("lengths")
    if lengths is None:
        return
    if tuple(lengths.shape) != latent[:1]:
        raise ArtifactError(f"`lengths` must be {latent[:1]}, got shape {tuple(lengths.shape)}.")
    if int(lengths.min()) < 1 or int(lengths.max()) > latent[1]:
        raise ArtifactError(f"`lengths` must be from 1 to {latent[1]}.")


def _check_tokens(
    tokens: torch.Tensor, decoder: tuple[int, ...], labels: torch.Tensor | None
) -> tuple[int, ...]:
    """Check hard tokens, and return the shape (S, L, K) that the labels must have."""
    shape = tuple(tokens.shape)
    if len(shape) != 2 or len(decoder) != 2:
        raise ArtifactError(
            f"`tokens` must be (S, L) and `decoder` (K, V), got shapes {shape} and {decoder}."
        )
    if labels is None:
        raise ArtifactError("`label_latent` is missing, and hard tokens need soft labels.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= decoder[1]:
        raise ArtifactError(f"`tokens` must be from 0 to {decoder[1] - 1}.")
    return (*shape, decoder[0])


def _check_logits(tensors: Mapping[str, torch.Tensor], temperature: float) -> None:
    """Check that no sum of products of the factors leaves float32, whose softmax is then NaN."""
    decoder = tensors["decoder"].detach()
    scale = float(decoder.abs().max()) * decoder.shape[0]
    for name in ("latent", "label_latent"):
        if name in tensors:
            largest = float(tensors[name].detach().abs().max()) * scale
            if not largest / min(temperature, 1.0) < _MOST_LOGIT:
                raise ArtifactError(f"`{name}` times `decoder` leaves float32.")


def check_temperature(temperature: float) -> None:
    """Check that soft tokens are defined at this temperature."""
    if type(temperature) is not float or not 0 < temperature < math.inf:
        raise ArtifactError(f"`temperature` must be a float > 0, got {short(repr(temperature))}.")
    if not 1e-9 <= temperature <= 1e9:  # float32 would make it 0, or the soft tokens not finite
        raise ArtifactError(f"`temperature` must be from 1e-9 to 1e9, got {temperature}.")


def check_seed(seed: int | None) -> None:
    """Check the seed that the hard tokens were drawn with."""
    if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 63):
        raise ArtifactError(f"`hard_token_seed` must be an int >= 0, got {short(repr(seed))}.")


def check_vocabulary(vocabulary: Sequence[int] | Sequence[str], num_tokens: int) -> None:
    """Check that every token has one original id, and every id one token."""
    if len(vocabulary) != num_tokens:
        raise ArtifactError(f"`vocabulary` has {len(vocabulary):,} ids for {num_tokens:,} tokens.")
    if {type(original) for original in vocabulary} not in ({int}, {str}):
        raise ArtifactError("`vocabulary` must be all int or all str.")
    if len(set(vocabulary)) != num_tokens:
        raise ArtifactError("`vocabulary` repeats an id.")
    for original in vocabulary:
        if isinstance(original, str):
            check_text("vocabulary", original)
        elif not -(1 << 63) <= original < 1 << 63:
            raise ArtifactError(f"`vocabulary` has an id beyond 64 bits: {short(str(original))}.")
