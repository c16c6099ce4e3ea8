"""Ordinary training of a student, on real sequences or on synthetic ones.

A batch is a function of the step, so that a run can be repeated and taken up again; training stops
when the validation loss has not improved for a while, and says whether it did.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.errors import NonFiniteError
from farzi.models import Student, sequence_loss
from farzi.models.fused.factored import FactoredTokens
from farzi.seeding import stream, stream_seed
from farzi.synthetic import SyntheticSequences

__all__ = [
    "Batch",
    "Batches",
    "Look",
    "RealBatches",
    "Schedule",
    "Shifted",
    "SyntheticBatches",
    "TrainSettings",
    "Trained",
    "patience_with",
    "real_batch",
    "train",
]

Schedule = Literal["constant", "linear"]

Stopped = Literal["validation", "schedule", "cap"]


@dataclass(frozen=True)
class Batch:
    """What one step reads: tokens (B, L) or (B, L, V), soft labels and mask where there are.

    Soft tokens and labels of a large vocabulary may come as their factors.
    """

    tokens: Tensor | FactoredTokens
    labels: Tensor | FactoredTokens | None = None
    mask: Tensor | None = None

    @property
    def formed(self) -> Tensor:
        """The tokens as one tensor; of real sequences they are ids, int64 (B, L).

        Raises:
            TypeError: they come as their factors.
        """
        if isinstance(self.tokens, FactoredTokens):
            raise TypeError("the tokens of this batch come as their factors.")
        return self.tokens

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        parts = (self.tokens, self.labels, self.mask)
        return Batch(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]


class Batches(Protocol):
    """The batches of a run, as a function of the step."""

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0; equal steps give equal batches."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read about once."""
        ...


def real_batch(
    sequences: Sequences, indices: np.ndarray, length: int, generator: np.random.Generator
) -> Batch:
    """One window of each sequence, ending at a random place: tokens and mask, (B, at most L + 1).

    A window holds L + 1 tokens, since the last is a target only: so all L positions of a context
    are trained, the last one among them, from which long histories are continued.

    Args:
        sequences: real sequences.
        indices: which of them, (B,).
        length: positions L that are trained; a shorter sequence is taken whole and padded on the
            right.
        generator: draws the ends.
    """
    windows = []
    for index in indices:
        sequence = sequences[int(index)]
        end = int(generator.integers(min(len(sequence), length + 1), len(sequence) + 1))
        windows.append(sequence[max(0, end - length - 1) : end])
    tokens, mask = Sequences.from_lists(windows).padded(
        np.arange(len(windows)), max(len(window) for window in windows)
    )
    return Batch(torch.from_numpy(tokens), mask=torch.from_numpy(mask))


@dataclass(frozen=True)
class RealBatches:
    """Windows of real sequences; an epoch reads every sequence once, in a new order.

    Args:
        sequences: real sequences.
        length: positions L of a window, which has L + 1 tokens.
        batch_size: sequences a step.
        seed: of the order and the windows.
    """

    sequences: Sequences
    length: int
    batch_size: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read once."""
        return math.ceil(len(self.sequences) / self.batch_size)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        indices = _epoch_slice(len(self.sequences), self.batch_size, self.seed, step)
        generator = stream(self.seed, "windows", step)
        return real_batch(self.sequences, indices, self.length, generator)


@dataclass(frozen=True)
class SyntheticBatches:
    """Batches of synthetic sequences: decoded once where they are few, else when they are read.

    Args:
        synthetic: the sequences.
        batch_size: sequences a step; all of them when it is S or more.
        seed: of the order.

    Cost:
        S L V floats, twice with labels, where these are at most `farzi.synthetic.MOST_FORMED`; else
        B L V a batch, or the factors alone.
    """

    synthetic: SyntheticSequences
    batch_size: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read once."""
        return math.ceil(self.synthetic.num_sequences / self.batch_size)

    def indices(self, step: int) -> Tensor | None:
        """Which sequences step `step` reads; None for all."""
        if self.batch_size >= self.synthetic.num_sequences:
            return None
        chosen = _epoch_slice(self.synthetic.num_sequences, self.batch_size, self.seed, step)
        return torch.from_numpy(chosen).to(self.synthetic.latent.device)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        few, indices = self.synthetic, self.indices(step)
        if self._formed is None:
            return Batch(*few.to_read(indices), few.mask(indices))
        tokens, labels = self._formed
        if indices is not None:
            # A row at a time: `labels[indices]` goes element by element, and takes thrice as long.
            tokens = tokens.index_select(0, indices)
            labels = None if labels is None else labels.index_select(0, indices)
        return Batch(tokens, labels, few.mask(indices))

    @functools.cached_property
    def _formed(self) -> tuple[Tensor, Tensor | None] | None:
        """Tokens and labels of all sequences, where they are few: the same at each step."""
        tokens, labels = self.synthetic.to_read()
        if isinstance(tokens, FactoredTokens) or isinstance(labels, FactoredTokens):
            return None
        return tokens, labels


@dataclass(frozen=True)
class Shifted:
    """Labelled rows moved by random numbers of places, so that a token is read at many positions.

    A model reads windows of real histories that end anywhere; of rows as long as its context, a
    position would meet the same few tokens at every step. Half of the rows of a step stay as they
    are, the others move to the right by 1 to `most` places. What falls off the end of a row is read
    in front of it, where it is not trained; a label moves with its token.

    Args:
        batches: what is moved; batches without labels pass as they are.
        most: places, at least 1; a row moves by less than its own length.
        seed: of what is drawn.

    Cost:
        A copy of the batch at every step, labels included.

    Example:
        >>> import torch
        >>> from farzi.synthetic import SyntheticSequences
        >>> from farzi.training import Shifted, SyntheticBatches
        >>> few = SyntheticSequences(torch.tensor([[1, 2, 3]]), torch.eye(4), torch.zeros(1, 3, 4))
        >>> moved = Shifted(SyntheticBatches(few, 1), most=1)
        >>> batches = [moved(step) for step in range(9)]
        >>> {tuple(batch.tokens[0].tolist()) for batch in batches} == {(1, 2, 3), (3, 1, 2)}
        True
    """

    batches: Batches
    most: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"`most` must be at least 1, got {self.most}.")

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row is read about once."""
        return self.batches.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        batch = self.batches(step)
        if batch.labels is None:
            return batch
        rows, length = batch.tokens.shape[:2]
        device = _device_of(batch.labels)
        real = batch.mask
        lengths = torch.full((rows,), length, device=device) if real is None else real.sum(1)
        draw = stream(self.seed, "shift", step)
        drawn = np.where(draw.random(rows) < 0.5, draw.integers(1, self.most + 1, rows), 0)
        places = torch.from_numpy(drawn).to(device).minimum((lengths - 1).clamp(min=0))[:, None]
        if not bool(places.any()):
            return batch
        position = torch.arange(length, device=device)
        origin = (position - places) % lengths.clamp(min=1)[:, None]
        mask = (position >= places) & (position < lengths[:, None] + places)
        return Batch(_taken(batch.tokens, origin), _taken(batch.labels, origin), mask)


def _device_of(part: Tensor | FactoredTokens) -> torch.device:
    return part.latent.device if isinstance(part, FactoredTokens) else part.device


def _taken(part: Tensor | FactoredTokens, positions: Tensor) -> Tensor | FactoredTokens:
    """Tokens or labels of a batch at these positions of each row, (B, L)."""
    if isinstance(part, FactoredTokens):
        return replace(part, latent=_rows_of(part.latent, positions))
    return _rows_of(part, positions)


def _rows_of(values: Tensor, positions: Tensor) -> Tensor:
    """The (B, L, ...) `values` at `positions`, copied a place at a time, not an element."""
    length = values.shape[1]
    first = length * torch.arange(len(positions), device=positions.device)
    flat = (first[:, None] + positions).flatten()
    return values.flatten(0, 1).index_select(0, flat).view_as(values)


def _epoch_slice(num: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices of one step: an epoch is a permutation drawn from (seed, epoch)."""
    epoch, position = divmod(step, math.ceil(num / batch_size))
    return _order(num, seed, epoch)[position * batch_size : (position + 1) * batch_size].copy()


@functools.lru_cache(maxsize=4)  # of the last epochs: of a large log each takes milliseconds
def _order(num: int, seed: int, epoch: int) -> np.ndarray:
    return stream(seed, "order", epoch).permutation(num)


def patience_with(schedule: Schedule, patience: int, max_steps: int) -> int:
    """Looks without improvement after which a student that will be used or scored may stop.

    None that could come, where its step size falls to nothing: most is gained in the last steps.
    Only one whose loss has been `LOST_NATS` above its best for `LOST_LOOKS` looks ends before.

    Args:
        schedule: of the step size.
        patience: with a constant one.
        max_steps: most steps of the run.

    Example:
        >>> from farzi.training import patience_with
        >>> patience_with("constant", 6, 1000), patience_with("linear", 6, 1000)
        (6, 1000)
    """
    return patience if schedule == "constant" else max_steps


@dataclass(frozen=True)
class TrainSettings:
    """How a student is trained.

    Args:
        lr: Adam's step size, > 0.
        max_steps: the cap; training is meant to stop before it.
        max_seconds: a cap on the seconds spent in steps, looks not counted; None for no such cap.
            A run that meets it is not repeatable step for step, since computers differ in speed.
        eval_every: steps between looks at the validation loss, at least.
        look_growth: steps between looks as a share of the steps so far, where that is more: looks
            then grow rarer as a run grows older, and cost it a bounded share of its time.
        eval_seconds: seconds of steps between looks, in place of `eval_every`; None to count steps.
            The weights that a run passes through are the same; where it looks at them is not.
        patience: looks without improvement after which it stops.
        weight_decay: decoupled weight decay (AdamW).
        betas: Adam's decays of the first and the second moment, each in [0, 1).
        smoothing: label smoothing, in [0, 1).
        seed: of the first weights and of dropout.
        schedule: `constant`, or `linear`: the step size falls to nothing at `max_steps`, and the
            run ends before where its loss is far above its best (`LOST_NATS`, `LOST_LOOKS`).

    Raises:
        ValueError: a value is out of range.
    """

    lr: float = 0.02
    max_steps: int = 400
    max_seconds: float | None = None
    eval_every: int = 10
    look_growth: float = 0.0
    eval_seconds: float | None = None
    patience: int = 5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    smoothing: float = 0.0
    seed: int = 0
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"`schedule` must be constant or linear, got {self.schedule!r}.")
        for name in ("max_steps", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be an int >= 1, got {getattr(self, name)}.")
        for name in ("lr", "max_seconds", "eval_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be > 0, got {value}.")
        for name in ("look_growth", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be >= 0, got {getattr(self, name)}.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {self.smoothing}.")


class Look(NamedTuple):
    """What a run saw at one look at the validation loss.

    Attributes:
        step: steps taken.
        loss: validation loss.
        seconds: seconds spent in those steps, looks not counted.
    """

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        params: weights at the best look.
        step: steps taken until then.
        loss: validation loss there.
        curve: every look.
        stopped: `validation` when the loss no longer fell, `schedule` where the step size had
            fallen to nothing, `cap` at the last allowed step or second.
    """

    params: dict[str, Tensor]
    step: int
    loss: float
    curve: tuple[Look, ...]
    stopped: Stopped

    @property
    def best_step(self) -> int:
        """The step of the best look, `step`."""
        return self.step

    @property
    def seconds(self) -> float:
        """Seconds spent in the steps until the best look."""
        return next(look.seconds for look in self.curve if look.step == self.step)

    @property
    def total_seconds(self) -> float:
        """Seconds spent in all steps."""
        return self.curve[-1].seconds


LOST_NATS = 0.5
"""Nats that the loss of a run whose step size falls may be above its best, or it ends early."""

LOST_LOOKS = 10
"""Looks in a row at which it is, before it does.

No run whose results are kept came back from a third of `LOST_NATS` (a test reads them).
"""

PROGRESS_SECONDS = 0.25
"""Seconds between two calls of `progress`, at least."""


def train(
    student: Student,
    batches: Batches,
    settings: TrainSettings,
    validate: Callable[[dict[str, Tensor]], float],
    *,
    device: torch.device | str = "cpu",
    on_look: Callable[[int, dict[str, Tensor], float], None] | None = None,
    progress: Callable[[int, float, float], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Trained:
    """Train fresh weights with Adam, keeping those with the lowest validation loss.

    Args:
        student: the model.
        batches: what it reads, a function of the step.
        settings: how.
        validate: parameters -> loss on validation data, lower is better.
        device: where to compute.
        on_look: called with (step, parameters, loss) at every look.
        progress: called a few times a second with (steps taken, loss of the last step's batch,
            seconds until the cap at this speed, looks counted); it changes no bit of the result.
        clock: what seconds are counted by.

    Raises:
        NonFiniteError: the loss was never finite at a look.

    Example:
        >>> from farzi.data.sequences import Sequences
        >>> from farzi.evaluation import validation_loss
        >>> from farzi.models import SASRec
        >>> from farzi.training import RealBatches, TrainSettings, train
        >>> circle = Sequences.from_lists([[0, 1, 2, 3, 0, 1, 2, 3]] * 4)
        >>> student = SASRec(num_tokens=4, context_length=8, width=8)
        >>> trained = train(
        ...     student, RealBatches(circle, 8, 4), TrainSettings(max_steps=60),
        ...     lambda params: validation_loss(student, params, circle))
        >>> trained.loss < 0.1
        True
    """
    first = student.init(torch.Generator().manual_seed(stream_seed(settings.seed, "weights")))
    params = {name: value.to(device).requires_grad_() for name, value in first.items()}
    dropout = torch.Generator(device).manual_seed(stream_seed(settings.seed, "dropout"))
    optimizer = torch.optim.AdamW(
        list(params.values()),
        settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
    best: tuple[int, float, dict[str, Tensor]] | None = None
    curve: list[Look] = []
    looks_since_best = looks_far = 0
    timer = _Timer(clock, device)
    due = _Due(settings)
    for step in range(1, settings.max_steps + 1):
        batch = batches(step - 1).to(device)
        optimizer.zero_grad()
        if settings.schedule == "linear":
            optimizer.param_groups[0]["lr"] = settings.lr * (1 - (step - 1) / settings.max_steps)
        loss = sequence_loss(
            student,
            params,
            batch.tokens,
            labels=batch.labels,
            mask=batch.mask,
            generator=dropout,
            smoothing=settings.smoothing,
            once=True,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        at_cap = step == settings.max_steps or timer.spent() >= (settings.max_seconds or math.inf)
        if progress is not None and (at_cap or timer.says_progress()):
            progress(step, loss.item(), timer.left(step, settings))
        if not at_cap and not due.now(step, timer):
            continue
        with timer.paused() as seconds:
            now = {name: value.detach() for name, value in params.items()}
            looked = validate(now)
            curve.append(Look(step, looked, seconds))
            if on_look is not None:
                on_look(step, now, looked)
            if math.isfinite(looked) and (best is None or looked < best[1]):
                best = (step, looked, {name: value.clone() for name, value in now.items()})
                looks_since_best = 0
            else:
                looks_since_best += 1
        due.looked(step, timer)
        is_far = best is not None and not looked <= best[1] + LOST_NATS
        looks_far = looks_far + 1 if is_far else 0
        is_lost = settings.schedule == "linear" and looks_far >= LOST_LOOKS
        if at_cap or is_lost or looks_since_best >= settings.patience:
            break
    if best is None:
        raise NonFiniteError(
            f"the validation loss was never finite in {curve[-1].step} steps at lr {settings.lr}; "
            "try a smaller one.",
            step=curve[-1].step,
        )
    stopped: Stopped = "cap"
    if is_lost or looks_since_best >= settings.patience:
        stopped = "validation"
    elif settings.schedule == "linear" and curve[-1].step == settings.max_steps:
        stopped = "schedule"
    return Trained(best[2], best[0], best[1], tuple(curve), stopped)


class _Timer:
    """Seconds spent in steps, and in all."""

    def __init__(self, clock: Callable[[], float], device: torch.device | str) -> None:
        self._clock = clock
        self._on_cuda = torch.device(device).type == "cuda"
        self._begun = self._said = clock()
        self._in_looks = 0.0

    def spent(self) -> float:
        """Seconds spent in steps."""
        return self._clock() - self._begun - self._in_looks

    @contextlib.contextmanager
    def paused(self) -> Iterator[float]:
        """Seconds spent in steps; what happens inside is not counted as such."""
        if self._on_cuda:
            torch.cuda.synchronize()
        started = self._clock()
        yield started - self._begun - self._in_looks
        self._in_looks += self._clock() - started

    def says_progress(self) -> bool:
        """Whether the last progress is long enough ago; if so, the next is due from now on."""
        now = self._clock()
        if now - self._said < PROGRESS_SECONDS:
            return False
        self._said = now
        return True

    def left(self, step: int, settings: TrainSettings) -> float:
        """Seconds until the cap at the speed so far."""
        elapsed, steps = self._clock() - self._begun, self.spent()
        by_steps = elapsed / step * (settings.max_steps - step)
        if settings.max_seconds is None or not steps:
            return by_steps
        return min(by_steps, max(0.0, settings.max_seconds - steps) * elapsed / steps)


class _Due:
    """Whether it is time to look at the validation loss."""

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._next_step = settings.eval_every
        self._next_seconds = settings.eval_seconds or 0.0

    def now(self, step: int, timer: _Timer) -> bool:
        if self._settings.eval_seconds is not None:
            return timer.spent() >= self._next_seconds
        return step >= self._next_step

    def looked(self, step: int, timer: _Timer) -> None:
        settings = self._settings
        self._next_step = step + max(settings.eval_every, int(settings.look_growth * step))
        self._next_seconds = timer.spent() + (settings.eval_seconds or 0.0)
