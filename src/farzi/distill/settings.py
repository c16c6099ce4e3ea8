"""How a distillation is run: every choice, with its default, in groups.

A choice among kinds (start, objective, inner optimiser, adjoint) is the value itself, so that a
setting of one kind never stands beside another. `farzi.distill.parse` reads the same tree from
files and flags; `farzi.distill.presets` knows what suits which source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from torch import Tensor

from farzi.distill.kinds import Kinds
from farzi.distill.objectives import OBJECTIVES, Objective
from farzi.distill.objectives.meta_matching import MetaMatching
from farzi.distill.ranges import Mistake, WrongSettingsError, above_zero, not_below_zero, refuse
from farzi.distill.starts import STARTS, Start
from farzi.distill.starts.teacher import TeacherStart
from farzi.distill.teachers import TeacherSettings
from farzi.errors import SettingsError
from farzi.metagrad import Adam, Adjoint, Optimizer, Stored
from farzi.models import Student, student_from

__all__ = [
    "ADJOINTS",
    "CHOICES",
    "OPTIMIZERS",
    "YOUNGER",
    "DistillSettings",
    "InnerSettings",
    "OuterSettings",
    "StudentSettings",
    "TeacherSettings",
    "WrongSettingsError",
]

YOUNGER: Mapping[str, Mapping[str, Any]] = {
    "": {"dtype": "auto"},
    "teachers": {"schedule": "constant", "student": ""},
    "inner": {"dropout": 0.0},
    "routine": {"dropouts": []},
}
"""Settings that records of earlier versions do not name, by group, and what they were then."""

OPTIMIZERS: Kinds[Optimizer] = Kinds(
    "inner optimiser",
    {
        "adagrad": "farzi.metagrad:Adagrad",
        "adam": "farzi.metagrad:Adam",
        "adamw": "farzi.metagrad:AdamW",
        "rmsprop": "farzi.metagrad:RMSprop",
        "sgd": "farzi.metagrad:SGD",
    },
)

ADJOINTS: Kinds[Adjoint] = Kinds(
    "adjoint",
    {
        "auto": "farzi.metagrad:Auto",
        "checkpointed": "farzi.metagrad:Checkpointed",
        "direct": "farzi.metagrad:Direct",
        "reversible": "farzi.metagrad:Reversible",
        "stored": "farzi.metagrad:Stored",
    },
)

CHOICES: Mapping[str, Kinds[Any]] = {
    "start": STARTS,
    "objective": OBJECTIVES,
    "inner.optimizer": OPTIMIZERS,
    "inner.adjoint": ADJOINTS,
}
"""The settings that are one of several kinds, each with settings of its own."""


Rule = Literal["exact", "paper"]

StoredAs = Literal["auto", "float16", "float32", "int8"]

FROM_DATA = ("num_tokens", "context_length", "dropout")
"""Settings of a student that are none of its own: from data, sequences and the teachers."""


@dataclass(frozen=True)
class StudentSettings:
    """The students' architecture; the vocabulary and the context come from data and sequences.

    Args:
        name: of the student, as `farzi.models.student_from` takes it.
        sizes: its own settings by name, such as `width` or `num_layers`.
    """

    name: str = "sasrec"
    sizes: Mapping[str, int | float | str] = field(default_factory=dict)

    @classmethod
    def of(cls, student: Student) -> StudentSettings:
        """The settings of a student that is there."""
        sizes = dict(student.settings())
        name = str(sizes.pop("name"))
        return cls(name, {key: x for key, x in sizes.items() if key not in FROM_DATA})

    def build(self, num_tokens: int, context_length: int) -> Student:
        """The student for a vocabulary and a context, of width 32 where nothing else is said.

        Args:
            num_tokens: vocabulary size V.
            context_length: longest sequence it reads.

        Raises:
            SettingsError: the name or a size is unknown or out of range.
        """
        given = {"num_tokens": num_tokens, "context_length": context_length}
        return student_from(self.name, {"width": 32, **given}, self.sizes)


def _default_optimizer() -> Optimizer:
    return Adam(lr=0.02, eps_root=1e-7)


@dataclass(frozen=True)
class InnerSettings:
    """How a student trains on the synthetic sequences.

    Args:
        steps: horizon T: a student is trained for so many steps, then begun anew.
        window: inner steps that one meta-gradient goes through.
        stride: inner steps by which a student grows older when a window of it has been read; 0: the
            window. More lets few outer steps see students of every age of a long training.
        window_lr: step size inside the windows; 0: the students' own. A smaller one makes the
            meta-gradient smoother: the students then train at their own rate beside the window.
        dropout: of the students, as of those that are trained on the artifact. A step draws the
            same every time it is evaluated, so that the gradient stays exact. Not with `compiled`.
        batch_size: synthetic sequences a step.
        optimizer: the inner optimiser. `eps_root`, inside Adam's root, makes the meta-gradient
            smooth.
        adjoint: how a window is differentiated.
        rule: how a step of the optimiser is differentiated: exactly, or as the paper's Algorithm 1
            does it with Adam (`farzi.metagrad.paper_rule`), which is right for one step only.
        compiled: whether torch compiles the inner steps, into CUDA graphs on a GPU; takes a minute
            at the beginning. On CPU the kernels are faster.
    """

    steps: int = 200
    window: int = 25
    stride: int = 0
    window_lr: float = 0.0
    dropout: float = 0.0
    batch_size: int = 10
    optimizer: Optimizer = field(default_factory=_default_optimizer)
    adjoint: Adjoint = field(default_factory=Stored)
    rule: Rule = "exact"
    compiled: bool = False

    def __post_init__(self) -> None:
        mistakes = above_zero(self, "steps", "window", "batch_size")
        mistakes += not_below_zero(self, "stride", "window_lr")
        if not 0 <= self.dropout < 1:
            mistakes.append(Mistake("dropout", self.dropout, "must be in [0, 1)"))
        elif self.dropout and self.compiled:
            what = "must be 0 with `inner.compiled`, which draws nothing"
            mistakes.append(Mistake("dropout", self.dropout, what))
        if 0 < self.stride < self.window and not self.window_lr:
            what = f"must be 0, or at least `inner.window` = {self.window} where a window trains on"
            mistakes.append(Mistake("stride", self.stride, what))
        if self.stride > self.steps:
            what = f"must be at most `inner.steps` = {self.steps}"
            mistakes.append(Mistake("stride", self.stride, what))
        if self.rule not in get_args(Rule):
            mistakes.append(Mistake("rule", self.rule, "must be exact or paper"))
        if self.rule == "paper" and not isinstance(self.optimizer, Adam):
            mistakes.append(Mistake("rule", self.rule, "must be exact with any inner but adam"))
        if self.window > self.steps > 0:
            what = f"must be at most `inner.steps` = {self.steps}"
            mistakes.append(Mistake("window", self.window, what))
        mistakes += [
            mistake._replace(name=f"optimizer.{mistake.name}")
            for mistake in _optimizer_mistakes(self.optimizer)
        ]
        refuse(mistakes)

    @property
    def pace(self) -> int:
        """Inner steps by which a student grows older at a window."""
        return self.stride or self.window


def lowered_window(asked: Mapping[str, Any], window: int) -> dict[str, int]:
    """The window, where inner steps are asked for that are fewer, and no window is.

    Args:
        asked: settings of the inner loop by name.
        window: what it is otherwise.

    Example:
        >>> from farzi.distill.settings import lowered_window
        >>> lowered_window({"steps": 2}, 25), lowered_window({"steps": 2, "window": 9}, 25)
        ({'window': 2}, {})
    """
    steps = asked.get("steps")
    if "window" in asked or type(steps) is not int or not 1 <= steps < window:
        return {}
    return {"window": steps}


@dataclass(frozen=True)
class RoutineSettings:
    """How the students' own training is chosen on the start, before the outer loop.

    Args:
        tries: fresh students that may be trained to choose it, one for each setting that is tried;
            0 keeps `inner.optimizer` and `inner.steps` as they are.
        lr_factor: the step size goes up by this factor for as long as that helps, or else down.
        decays: weight decays that are tried at the best step size, where the optimiser is Adam or
            AdamW.
        dropouts: dropout rates that are tried after that.
        max_steps: most steps of a try; it stops earlier where validation does.
        patience: looks without improvement after which it does; a look comes each tenth of the
            steps so far.

    Raises:
        WrongSettingsError: a value is out of range.
    """

    tries: int = 0
    lr_factor: float = 2.0
    decays: tuple[float, ...] = (0.05,)
    dropouts: tuple[float, ...] = ()
    max_steps: int = 4000
    patience: int = 8

    def __post_init__(self) -> None:
        mistakes = not_below_zero(self, "tries") + above_zero(self, "max_steps", "patience")
        if not self.lr_factor > 1:
            mistakes.append(Mistake("lr_factor", self.lr_factor, "must be above 1"))
        if any(not decay >= 0 for decay in self.decays):
            mistakes.append(Mistake("decays", list(self.decays), "must be 0 or more"))
        if any(not 0 <= dropout < 1 for dropout in self.dropouts):
            mistakes.append(Mistake("dropouts", list(self.dropouts), "must be in [0, 1)"))
        object.__setattr__(self, "decays", tuple(self.decays))
        object.__setattr__(self, "dropouts", tuple(self.dropouts))
        refuse(mistakes)


@dataclass(frozen=True)
class OuterSettings:
    """The outer loop. Its step sizes are relative to each block's RMS.

    Args:
        steps: outer steps; 0 keeps the start as it is.
        batch_size: real sequences an outer loss reads.
        lr_latent: step size of the latents.
        lr_labels: step size of the label latents.
        lr_decoder: step size of the decoder.
        num_students: students kept at staggered ages.
        students_per_step: students whose meta-gradients one outer step averages, at most all.
        validate_every: outer steps between looks by fresh students.
        validation_seeds: fresh students a look.
        validation_size: validation sequences a look reads, at most.
        patience: looks without improvement after which it stops.
    """

    steps: int = 40
    batch_size: int = 256
    lr_latent: float = 0.001
    lr_labels: float = 0.005
    lr_decoder: float = 0.002
    num_students: int = 8
    students_per_step: int = 4
    validate_every: int = 10
    validation_seeds: int = 3
    validation_size: int = 512
    patience: int = 4

    def __post_init__(self) -> None:
        refuse(
            above_zero(self, "batch_size", "num_students", "students_per_step")
            + above_zero(self, "validate_every", "validation_seeds", "validation_size", "patience")
            + not_below_zero(self, "steps", "lr_latent", "lr_labels", "lr_decoder")
        )
        object.__setattr__(
            self, "students_per_step", min(self.students_per_step, self.num_students)
        )


@dataclass(frozen=True)
class DistillSettings:
    """Settings of one distillation.

    Args:
        num_sequences: synthetic sequences S.
        length: their length, which is the students' context length, L.
        latent_dim: rank K.
        labels: learn soft labels too; False is the published format.
        temperature: tau of the soft tokens.
        student: the inner students' architecture, which is the teachers' too.
        teachers: training runs on real data.
        start: where latents and decoder begin.
        objective: what the outer loop lowers.
        inner: training on the synthetic sequences.
        routine: how that training is chosen on the start.
        outer: the outer loop.
        dtype: how the artifact stores the factors: `float16`, `float32`, `int8` (a scale a row); or
            `auto`: float16 where it holds them.
        seed: of everything drawn.

    Raises:
        WrongSettingsError: a value is out of range; all that are, are named.

    Example:
        >>> from farzi.distill import DistillSettings, OuterSettings
        >>> settings = DistillSettings(outer=OuterSettings(steps=3))
        >>> settings.with_values({"inner.steps": 50}).as_dict()["inner"]["steps"]
        50
    """

    num_sequences: int = 50
    length: int = 50
    latent_dim: int = 48
    labels: bool = True
    temperature: float = 1.0
    student: StudentSettings = field(default_factory=StudentSettings)
    teachers: TeacherSettings = field(default_factory=TeacherSettings)
    start: Start = field(default_factory=TeacherStart)
    objective: Objective = field(default_factory=MetaMatching)
    inner: InnerSettings = field(default_factory=InnerSettings)
    routine: RoutineSettings = field(default_factory=RoutineSettings)
    outer: OuterSettings = field(default_factory=OuterSettings)
    dtype: StoredAs = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        mistakes = above_zero(self, "num_sequences", "length", "latent_dim", "temperature")
        mistakes += not_below_zero(self, "seed")
        if self.dtype not in get_args(StoredAs):
            what = f"must be {', '.join(get_args(StoredAs)[:-1])} or {get_args(StoredAs)[-1]}"
            mistakes.append(Mistake("dtype", self.dtype, what))
        refuse(mistakes)

    @property
    def context_length(self) -> int:
        """Positions a student trains: L, or L - 1 where tokens are the labels as well."""
        return self.length if self.labels else self.length - 1

    @property
    def needs_teachers(self) -> bool:
        """Whether anything reads a model trained on real data."""
        return self.start.needs_teachers or self.objective.needs_teachers

    def with_values(self, values: Mapping[str, Any]) -> DistillSettings:
        """The same settings with other values, by dotted names.

        A window longer than the inner steps that are asked for becomes as long as they are.

        Raises:
            SettingsError: a name is unknown or a value out of range.
        """
        from farzi.distill.presets import chosen

        inner = {name.removeprefix("inner."): value for name, value in values.items()}
        lowered = lowered_window(inner, self.inner.window)
        values = {**values, **{f"inner.{name}": value for name, value in lowered.items()}}
        looked_up = {
            name: chosen(name, value) if isinstance(value, str) and name in CHOICES else value
            for name, value in values.items()
        }
        if isinstance(looked_up.get("student"), str):
            looked_up["student"] = StudentSettings(looked_up["student"])
        return cast("DistillSettings", _with_values(self, looked_up))

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON values; a choice is its name and its own settings."""
        return {item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)}


def _with_values(group: Any, values: Mapping[str, Any]) -> Any:
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = {item.name for item in dataclasses.fields(group)}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if first not in known:
            raise SettingsError(f"unknown setting {name!r}.")
        if rest:
            nested.setdefault(first, {})[rest] = value
        else:
            changes[first] = value
    for first, inner in nested.items():
        changes[first] = _with_values(changes.get(first, getattr(group, first)), inner)
    return replace(group, **changes)


# ------------------------------------------------------------------------------ values as JSON


def plain(value: Any) -> Any:
    """A setting as JSON values.

    Example:
        >>> from farzi.distill.settings import plain
        >>> from farzi.metagrad import SGD
        >>> plain(SGD(lr=0.5))["name"]
        'sgd'
    """
    if isinstance(value, StudentSettings):
        return {"name": value.name, **value.sizes}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value if isinstance(value, bool | int | float | str | None) else repr(value)
    own = {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    is_group = isinstance(value, _GROUPS)
    return own if is_group else {"name": named(value), **own}


def named(value: object) -> str:
    """What settings call a value that is one of several kinds; of any other, where its class is."""
    kind = type(value)
    for kinds in CHOICES.values():
        for name, place in kinds.places.items():
            if place.endswith(f":{kind.__name__}") and kinds[name] is kind:
                return name
    return f"{kind.__module__}.{kind.__qualname__}"


_GROUPS = (TeacherSettings, InnerSettings, RoutineSettings, OuterSettings, DistillSettings)


def _optimizer_mistakes(optimizer: Optimizer) -> list[Mistake]:
    """Hyper-parameters that no optimiser can have, and schedules that no window could read."""
    mistakes = []
    for name, setting in optimizer.hyper.items():
        for value in setting.values() if isinstance(setting, Mapping) else (setting,):
            if isinstance(value, Tensor) and value.ndim:
                what = "must be a number or a function of the step: runs are cut into windows"
                mistakes.append(Mistake(name, list(value.shape), what))
            if callable(value) or isinstance(value, Tensor):
                continue
            if name == "lr" and not value > 0:
                mistakes.append(Mistake(name, value, "must be > 0"))
            elif name in ("b1", "b2", "momentum", "alpha") and not 0 <= value < 1:
                mistakes.append(Mistake(name, value, "must be in [0, 1)"))
            elif not value >= 0:
                mistakes.append(Mistake(name, value, "must be >= 0"))
    return mistakes
