"""The audit of an artifact: every attack with its AUC, the nearest sequences, what is read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farzi.artifact import (
    Artifact,
    check_split,
    recipe_decay,
    recipe_dropout,
    recipe_number,
    recipe_rate,
    recipe_student,
)
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.errors import DataError, SettingsError
from farzi.evaluation import sequence_losses, sequences_of, validation_loss
from farzi.models import Student, build_student, with_dropout
from farzi.privacy.attacks import ATTACKS, Evidence, Floats
from farzi.privacy.likeness import hard_rows, likeliest_cosines, longest_runs, soft_counts
from farzi.privacy.read_back import Neighbour, ReadBack, neighbours, read_back
from farzi.seeding import stream, stream_seed
from farzi.training import Batches, RealBatches, SyntheticBatches, TrainSettings, train

__all__ = ["Attack", "Audit", "AuditSettings", "area", "audit_artifact"]

Progress = Callable[[int, int, str], None]

REAL_RATE = 0.01  # AdamW's on real sequences, and where a recipe's is another optimiser's
FALSE_ALARMS = 0.01  # share of held-out users who may be taken for training users


@dataclass(frozen=True)
class AuditSettings:
    """How much an audit does.

    Args:
        students: trained on the artifact; their losses are averaged.
        references: models trained on real users, each on a random half of the candidates.
        candidates: most training users, and most held-out ones, that are guessed at.
        resamples: of the bootstrap.
        max_steps: most steps of a student on the artifact, and half the epochs' of a reference.
        seed: of everything drawn.
    """

    students: int = 3
    references: int = 8
    candidates: int = 1000
    resamples: int = 1000
    max_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"students": 1, "references": 2, "candidates": 2, "resamples": 100, "max_steps": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be an int >= {low}, got {value}.")


@dataclass(frozen=True)
class Attack:
    """How well one attack tells training users from held-out ones.

    Args:
        name: of `ATTACKS`.
        about: what it goes by, in a sentence.
        auc: the probability that it scores a training user above a held-out one; 0.5 is chance.
        low: lower end of the 95 % bootstrap interval over users.
        high: upper end.
        found: share of training users that it finds where 1 % of held-out users are taken for some.
    """

    name: str
    about: str
    auc: float
    low: float
    high: float
    found: float


@dataclass(frozen=True)
class Audit:
    """What an artifact gives away.

    Args:
        attacks: the attacks.
        members: training users guessed at.
        others: held-out users guessed at.
        neighbours: of every synthetic sequence.
        read_back: for runs of several lengths.
        start: what the sequences began as, as the artifact says.
        settings: of the audit.
    """

    attacks: tuple[Attack, ...]
    members: int
    others: int
    neighbours: tuple[Neighbour, ...]
    read_back: tuple[ReadBack, ...]
    start: str
    settings: AuditSettings

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return dataclasses.asdict(self)

    @property
    def strongest(self) -> Attack:
        """The attack of the highest AUC."""
        return max(self.attacks, key=lambda attack: attack.auc)


def audit_artifact(
    artifact: Artifact,
    data: PreparedData,
    settings: AuditSettings | None = None,
    *,
    student: Student | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Audit:
    """Attack an artifact as somebody would who holds it.

    Members are training users; the others are the test users, whom neither training nor any
    choice saw. Users are drawn where there are more than `candidates`.

    Args:
        artifact: the distilled sequences.
        data: the source, on the artifact's split.
        settings: how much to do.
        student: what to train; None: the artifact's.
        device: where to compute.
        progress: called with (models trained, models in all, what is done now).

    Raises:
        ArtifactError: the artifact belongs to another split.
        SettingsError: the split holds no user out.
        DataError: too few users are held out.

    Cost:
        Trains `students` models on the artifact and `references` on half of the candidates' real
        sequences.
    """
    settings = settings or AuditSettings()
    check_split(artifact, data.identity)
    if data.split_kind == "leave-last-out":
        raise SettingsError(
            "a leave-last-out split: every user is a training user; an audit needs held-out ones."
        )
    members = _draw(sequences_of(data, "train"), settings, 0)
    others = _draw(sequences_of(data, "test"), settings, 1)
    if len(others) < 2 or len(members) < 2:
        raise DataError(f"{data.name}: an audit needs at least two held-out users.")
    pool = _joined(members, others)
    is_member = np.arange(len(pool)) < len(members)
    chosen = student or _student(artifact, data)
    run = _Training(chosen, sequences_of(data, "validation"), settings, device, progress)
    losses = _losses_of_students(run, artifact, pool)
    references = _losses_of_references(run, pool)
    rows, counts = hard_rows(artifact), soft_counts(artifact)
    seen = Evidence(
        losses=losses,
        reference_losses=references,
        cosine=likeliest_cosines(pool, counts),
        run=longest_runs(pool, rows).astype(np.float64),
    )
    draws = stream(settings.seed, "audit bootstrap")
    return Audit(
        attacks=tuple(
            _attack(name, attack(seen), is_member, attack.__doc__ or "", settings, draws)
            for name, attack in ATTACKS.items()
        ),
        members=len(members),
        others=len(others),
        neighbours=neighbours(rows, counts, data.train, data.test),
        read_back=read_back(rows, data.train, data.test),
        start=_start_of(artifact),
        settings=settings,
    )


def _start_of(artifact: Artifact) -> str:
    start = artifact.recipe.get("start")
    name = start.get("name") if isinstance(start, Mapping) else start
    return name if isinstance(name, str) else "unknown"


def _student(artifact: Artifact, data: PreparedData) -> Student:
    sizes = recipe_student(artifact)
    sizes.pop("dropout", None)
    return build_student({**sizes, "num_tokens": data.vocabulary.size})


def _draw(sequences: Sequences, settings: AuditSettings, part: int) -> Sequences:
    long_enough = np.flatnonzero(np.asarray(sequences.lengths) >= 2)
    if len(long_enough) > settings.candidates:
        order = stream(settings.seed, "audit users", part).permutation(len(long_enough))
        long_enough = np.sort(long_enough[order[: settings.candidates]])
    return sequences.take(long_enough)


def _joined(first: Sequences, second: Sequences) -> Sequences:
    return Sequences.from_lists([*first, *second])


# ------------------------------------------------------------------------------------ the models


@dataclass
class _Training:
    """Trains one model after another, each stopped on the validation part."""

    student: Student
    validation: Sequences
    settings: AuditSettings
    device: torch.device | str
    progress: Progress | None
    done: int = 0

    def losses(
        self, batches: Batches, how: TrainSettings, pool: Sequences, dropout: float = 0.0
    ) -> Floats:
        """Mean loss a token of every candidate under a model trained on `batches`."""
        self._say("training")
        trained = train(
            with_dropout(self.student, dropout) if dropout else self.student,
            batches,
            how,
            lambda params: validation_loss(self.student, params, self.validation),
            device=self.device,
        )
        found = sequence_losses(self.student, trained.params, pool)
        self.done += 1
        self._say("")
        return found

    def _say(self, note: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.settings.students + self.settings.references, note)


def _losses_of_students(run: _Training, artifact: Artifact, pool: Sequences) -> Floats:
    batch_size = recipe_number(artifact, "batch_size", int)
    how = TrainSettings(
        lr=recipe_rate(artifact) or REAL_RATE,
        weight_decay=recipe_decay(artifact),
        max_steps=run.settings.max_steps,
        eval_every=10,
        patience=6,
    )
    found = []
    for number in range(run.settings.students):
        seed = stream_seed(run.settings.seed, "audit student", number)
        batches = SyntheticBatches(artifact.synthetic, batch_size, seed)
        how = replace(how, seed=seed)
        found.append(run.losses(batches, how, pool, recipe_dropout(artifact)))
    mean: Floats = np.mean(found, axis=0)
    return mean


def _losses_of_references(run: _Training, pool: Sequences) -> Floats:
    """(R, N): nan where a model was trained on the candidate; everybody is left out of half."""
    found = np.full((run.settings.references, len(pool)), np.nan)
    half = np.zeros(len(pool), np.bool_)
    for number in range(run.settings.references):
        seed = stream_seed(run.settings.seed, "audit reference", number)
        if number % 2:
            half = ~half  # so that each candidate is left out by one of two
        else:
            order = stream(run.settings.seed, "audit reference", number).permutation(len(pool))
            half = np.isin(np.arange(len(pool)), order[: len(pool) // 2])
        known = pool.take(np.flatnonzero(half))
        batches = RealBatches(known, run.student.context_length, min(64, len(known)), seed)
        look = batches.steps_per_epoch
        how = TrainSettings(
            lr=REAL_RATE, max_steps=80 * look, eval_every=look, patience=6, seed=seed
        )
        losses = run.losses(batches, how, pool)
        found[number, ~half] = losses[~half]
    return found


# ------------------------------------------------------------------------------------- the scores


def area(members: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> float:
    """The probability that a member scores above another, ties counting half: the AUC.

    Example:
        >>> import numpy as np
        >>> from farzi.privacy.auditing import area
        >>> area(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        0.875
    """
    order = np.sort(others)
    below = np.searchsorted(order, members, side="left")
    up_to = np.searchsorted(order, members, side="right")
    return float((below + up_to).sum() / (2 * len(members) * len(others)))


def _attack(
    name: str,
    scores: Floats,
    is_member: NDArray[np.bool_],
    about: str,
    settings: AuditSettings,
    draws: np.random.Generator,
) -> Attack:
    members, others = scores[is_member], scores[~is_member]
    resampled = [
        area(
            members[draws.integers(len(members), size=len(members))],
            others[draws.integers(len(others), size=len(others))],
        )
        for _ in range(settings.resamples)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    allowed = int(FALSE_ALARMS * len(others))
    threshold = np.sort(others)[::-1][allowed]
    return Attack(
        name,
        " ".join(about.split()),
        area(members, others),
        float(low),
        float(high),
        float((members > threshold).mean()),
    )
