"""How a distillation is run: every choice, with its default."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from farzi.distill.objectives import Objective
from farzi.distill.objectives.meta_matching import MetaMatching
from farzi.distill.starts import STARTS, StartRows
from farzi.distill.starts import Start as StartValue
from farzi.errors import SettingsError
from farzi.metagrad import Adam, Adjoint, Optimizer, Stored

__all__ = ["DistillSettings", "OuterTargets", "Start", "StartRows"]

Start = Literal["teacher", "real", "random"]
OuterTargets = Literal["teacher", "data"]


@dataclass(frozen=True)
class DistillSettings:
    """Settings of one distillation; step sizes of the outer loop are relative to each block's RMS.

    Args:
        num_sequences: synthetic sequences S.
        length: their length, which is the students' context length, L.
        latent_dim: rank K.
        labels: learn soft labels too; False is the published format.
        temperature: tau of the soft tokens.
        start: where latents and decoder begin.
        start_rows: real rows that a start is built from: `ends` of long sequences; whole sequences
            `joined`; `pieces` of many, joined, for many different tokens; `auto` joins sentences,
            and takes pieces of histories, or their ends where there are no labels.
        student: name of the student.
        width: its width W.
        num_layers: its blocks.
        num_heads: its attention heads.
        conv_size: positions that a causal convolution of its input reads; 0: no convolution.
        dropout: of students trained on real data: the teachers.
        num_teachers: training runs on real data; their mean prediction starts the latents.
        teacher_lr: their step size.
        teacher_batch: real sequences a teacher's step.
        teacher_smoothing: their label smoothing.
        teacher_epochs: their cap; they stop on validation.
        outer_steps: steps of the outer loop; 0 keeps the start as it is.
        outer_targets: what the outer loss compares predictions on real sequences with: the
            teachers' mean prediction, or the next token alone as published.
        outer_batch: real sequences an outer loss reads.
        lr_latent: outer step size of the latents.
        lr_labels: outer step size of the label latents.
        lr_decoder: outer step size of the decoder.
        inner_steps: horizon T: a student is trained for so many steps, then begun anew.
        window: inner steps that one meta-gradient goes through.
        inner_lr: the students' step size.
        inner_batch: synthetic sequences an inner step.
        compiled: whether torch compiles the inner steps, into CUDA graphs on a GPU; takes a minute
            at the start. On CPU the kernels are faster.
        eps_root: inside Adam's root in the inner loop; makes the meta-gradient smooth.
        num_students: students kept at staggered ages.
        starts_per_step: students whose meta-gradients one outer step averages, at most all.
        stored_starts: share of students begun from a teacher's early weights, not from fresh ones.
        validate_every: outer steps between looks by fresh students.
        validation_seeds: fresh students a look.
        validation_size: validation sequences a look reads, at most.
        patience: looks without improvement after which it stops.
        seed: of everything drawn.
    """

    num_sequences: int = 50
    length: int = 50
    latent_dim: int = 48
    labels: bool = True
    temperature: float = 1.0
    start: Start = "teacher"
    start_rows: StartRows = "auto"
    student: str = "sasrec"
    width: int = 32
    num_layers: int = 1
    num_heads: int = 1
    conv_size: int = 0
    dropout: float = 0.2
    num_teachers: int = 4
    teacher_lr: float = 0.02
    teacher_batch: int = 64
    teacher_smoothing: float = 0.1
    teacher_epochs: int = 60
    outer_steps: int = 40
    outer_targets: OuterTargets = "data"
    outer_batch: int = 256
    lr_latent: float = 0.001
    lr_labels: float = 0.005
    lr_decoder: float = 0.002
    inner_steps: int = 200
    window: int = 25
    inner_lr: float = 0.02
    inner_batch: int = 10
    compiled: bool = False
    eps_root: float = 1e-7
    num_students: int = 8
    starts_per_step: int = 4
    stored_starts: float = 0.0
    validate_every: int = 10
    validation_seeds: int = 3
    validation_size: int = 512
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise SettingsError(f"`{name}` must be > 0, got {getattr(self, name)}.")
        for name in (
            "conv_size",
            "outer_steps",
            "lr_latent",
            "lr_labels",
            "lr_decoder",
            "eps_root",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise SettingsError(f"`{name}` must be >= 0, got {getattr(self, name)}.")
        for name in ("dropout", "teacher_smoothing", "stored_starts"):
            if not 0 <= getattr(self, name) < 1 and getattr(self, name) != 1.0:
                raise SettingsError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        for name, allowed in (
            ("start", Start),
            ("start_rows", StartRows),
            ("outer_targets", OuterTargets),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise SettingsError(
                    f"`{name}` must be one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}."
                )
        if self.window > self.inner_steps:
            raise SettingsError(
                f"`window` must be at most `inner_steps` = {self.inner_steps}, got {self.window}."
            )
        object.__setattr__(self, "starts_per_step", min(self.starts_per_step, self.num_students))

    @property
    def context_length(self) -> int:
        """Positions a student trains: L, or L - 1 where tokens are the labels as well."""
        return self.length if self.labels else self.length - 1

    @property
    def optimizer(self) -> Optimizer:
        """The inner optimiser."""
        return Adam(lr=self.inner_lr, eps_root=self.eps_root)

    @property
    def adjoint(self) -> Adjoint:
        """How a window of inner steps is differentiated."""
        return Stored()

    @property
    def objective(self) -> Objective:
        """What the outer loop lowers."""
        return MetaMatching(targets=self.outer_targets, from_teachers=self.stored_starts)

    @property
    def start_value(self) -> StartValue:
        """Where latents and decoder begin."""
        rows = {} if self.start == "random" else {"rows": self.start_rows}
        return STARTS[self.start](**rows)

    @property
    def needs_teachers(self) -> bool:
        """Whether anything reads a model trained on real data."""
        return self.start_value.needs_teachers or self.objective.needs_teachers

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name."""
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings."""
        return tuple(field.name for field in fields(cls))


_POSITIVE = (
    "num_sequences",
    "length",
    "latent_dim",
    "temperature",
    "width",
    "num_layers",
    "num_heads",
    "num_teachers",
    "teacher_lr",
    "teacher_batch",
    "teacher_epochs",
    "outer_batch",
    "inner_steps",
    "window",
    "inner_lr",
    "inner_batch",
    "num_students",
    "starts_per_step",
    "validate_every",
    "validation_seeds",
    "validation_size",
    "patience",
)
