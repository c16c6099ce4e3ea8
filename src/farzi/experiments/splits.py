"""One split of a source with all that is compared on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farzi.data.prepared import PreparedData
from farzi.errors import SettingsError
from farzi.models import Params, Student, build_student, with_dropout
from farzi.synthetic import SyntheticSequences

__all__ = ["Split", "check_one_protocol"]

# The settings in a protocol: what else it holds are counts, which differ from split to split.
_PROTOCOL_SETTINGS = ("k_core", "min_length", "repeats", "vocabulary_size", "tokens")
_OF_TOKENIZERS = ("tokenizer_sha256", "eos")


@dataclass(frozen=True)
class Split:
    """One split with what was distilled from it.

    Args:
        data: the prepared split.
        student: name and sizes of the students, as `Student.settings` gives them.
        num_sequences: sequences of a small row, S.
        batch_size: sequences a step of a small row.
        distilled: distilled sequences by the name of their row.
        teachers: weights of the teachers that soft labels come from; where there are none, the rows
            that need them cannot be built.
        teacher: their architecture; None: the students'.
        num_bytes: bytes that distilled sequences take as they are stored, by name; where nothing is
            said, their factors in float32.
        keys: what made the teachers (`teachers`) and the distilled sequences (by name), where that
            says more than their values: results are kept by it.
        own: the student itself, where it is one of the user's own, which no settings build.
    """

    data: PreparedData
    student: Mapping[str, Any]
    num_sequences: int
    batch_size: int = 10
    distilled: Mapping[str, SyntheticSequences] = field(default_factory=dict)
    teachers: tuple[Params, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    own: Student | None = None
    teacher: Student | None = None
    num_bytes: Mapping[str, int] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What every result on the split depends on, as JSON values."""
        data = self.data
        return {
            "source": data.name,
            "fingerprint": data.fingerprint,
            "task": data.task,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
            "seen_items": data.seen_items,
            "protocol": {name: data.protocol.get(name) for name in _PROTOCOL_SETTINGS}
            | {name: data.protocol[name] for name in _OF_TOKENIZERS if name in data.protocol},
            "student": dict(self.student),
        }

    def key(self, part: str) -> str:
        """What `teachers`, or the distilled sequences of this name, are: a key or a hash."""
        if part in self.keys:
            return self.keys[part]
        digest = hashlib.sha256()
        if part == "teachers":
            tensors = [
                (f"{place}/{name}", params[name])
                for place, params in enumerate(self.teachers)
                for name in sorted(params)
            ]
        else:
            few = self.distilled[part]
            tensors = sorted(few.factors().items())
            digest.update(str(few.temperature).encode())
            if few.lengths is not None:
                tensors.append(("lengths", few.lengths))
        for name, tensor in tensors:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def seed(self) -> int:
        """The seed of the split."""
        return self.data.split_seed

    @property
    def context_length(self) -> int:
        """Positions that a student reads, L."""
        return int(self.student["context_length"])

    def build_student(self, dropout: float = 0.0) -> Student:
        """A student with this dropout rate."""
        return with_dropout(self.own or build_student(self.student), dropout)

    def build_teacher(self) -> Student:
        """The teachers' architecture, without dropout."""
        return self.teacher or self.build_student()


def check_one_protocol(splits: Sequence[Split]) -> None:
    """Refuse to put splits in one table whose scores do not mean the same.

    Raises:
        SettingsError: there is no split, one is there twice, or two differ in source, task, kind of
            split, rule for seen items, settings of the preparation or student.
    """
    if not splits:
        raise SettingsError("a comparison needs at least one split.")
    seeds = [split.seed for split in splits]
    if repeated := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]:
        raise SettingsError(f"split {repeated[0]} is there twice; a comparison takes each once.")
    first = _protocol(splits[0])
    for split in splits[1:]:
        for name, value in _protocol(split).items():
            if value != first[name]:
                raise SettingsError(
                    f"splits {splits[0].seed} and {split.seed} differ in {name}: {first[name]} and "
                    f"{value}; their scores cannot stand in one table."
                )


def _protocol(split: Split) -> dict[str, Any]:
    data = split.data
    return {
        "source": data.name,
        "content of the source": data.fingerprint,
        "task": data.task,
        "kind of split": data.split_kind,
        "seen items": data.seen_items,
        **{
            name.replace("_", " "): data.protocol.get(name)
            for name in (*_PROTOCOL_SETTINGS, *_OF_TOKENIZERS)
        },
        **{f"the student's {name}": value for name, value in split.student.items()},
        "number of sequences": split.num_sequences,
    }
