"""Full data, samples of it, and distilled data side by side, over splits and seeds.

Every row is tuned the same way: one seed over the same grid of step sizes and dropout rates, then
over label smoothing, each run stopped on validation, the best setting kept; then fresh students
from other seeds, whose test scores are taken once. Whoever gets soft labels gets them from the same
teachers.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.distill.teachers import mean_logits
from farzi.errors import SettingsError
from farzi.evaluation import Scores, evaluate, most_popular, sequences_of, validation_loss
from farzi.metrics import paired_bootstrap
from farzi.models import Params, Student, build_student
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences
from farzi.training import (
    Batch,
    Batches,
    RealBatches,
    SyntheticBatches,
    Trained,
    TrainSettings,
    train,
)

__all__ = ["ROWS", "CompareSettings", "Split", "compare", "headline_metrics"]

ROWS = ("full", "random", "random-soft", "head", "head-soft", "farzi", "most-popular")


@dataclass(frozen=True)
class CompareSettings:
    """How rows are tuned and scored.

    Args:
        rows: which rows, of `ROWS`.
        seeds: fresh students a row and split; where a row is drawn at random, each from its own
            draw.
        lrs: step sizes of the grid.
        dropouts: dropout rates of the grid.
        smoothings: label smoothing: the grid has the first, and its best setting tries the others.
        max_steps: cap of a small row, in steps.
        full_batch: sequences a step of the full row; the others have the artifact's.
        max_epochs: cap of the full row, in epochs.
        patience: looks without improvement after which a run stops; a look is an epoch on full
            data and 10 steps elsewhere.
        validation_size: validation sequences that a look reads, at most.
        seed: of everything drawn.
    """

    rows: tuple[str, ...] = ROWS
    seeds: int = 3
    lrs: tuple[float, ...] = (0.01, 0.02)
    dropouts: tuple[float, ...] = (0.0, 0.2)
    smoothings: tuple[float, ...] = (0.1, 0.0)
    full_batch: int = 64
    max_steps: int = 1000
    max_epochs: int = 80
    patience: int = 6
    validation_size: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise SettingsError(f"--rows: unknown row {unknown[0]!r}; known: {', '.join(ROWS)}.")
        for flag, count in (("--seeds", self.seeds), ("--full-batch", self.full_batch)):
            if count < 1:
                raise SettingsError(f"{flag} must be at least 1, got {count}.")


@dataclass(frozen=True)
class Split:
    """One split with what was distilled from it.

    Args:
        data: the prepared split.
        synthetic: the distilled sequences; None leaves the row out.
        recipe: the artifact's recipe: student and batch size.
        teachers: weights of the teachers that soft labels come from; empty leaves soft rows out.
        also: further distilled sequences of the split, by the name of their row.
    """

    data: PreparedData
    recipe: Mapping[str, Any]
    num_sequences: int
    context_length: int
    synthetic: SyntheticSequences | None = None
    teachers: tuple[Params, ...] = ()
    also: Mapping[str, SyntheticSequences] = field(default_factory=dict)


@dataclass(frozen=True)
class _Size:
    sequences: int
    tokens: int
    num_bytes: int


@dataclass(frozen=True)
class _Run:
    split_seed: int
    scores: Scores
    trained: Trained | None
    wall_s: float


@dataclass(frozen=True)
class _Choice:
    """What is tuned of how a row's students are trained."""

    lr: float
    dropout: float
    smoothing: float

    def __str__(self) -> str:
        return f"lr {self.lr:g}, dropout {self.dropout:g}, label smoothing {self.smoothing:g}"


@dataclass(frozen=True)
class SoftLabelBatches:
    """Real tokens with the teachers' mean prediction as labels.

    Args:
        tokens: int64 (S, L).
        lengths: int64 (S,).
        hidden: the teachers' hidden states (S, L, n W).
        table: their embeddings (V, n W).
        batch_size: sequences a step.
        seed: of the order.
    """

    tokens: Tensor
    lengths: Tensor
    hidden: Tensor
    table: Tensor
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read once."""
        return -(-len(self.tokens) // self.batch_size)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = stream(self.seed, "order", epoch).permutation(len(self.tokens))
        chosen = torch.from_numpy(order[position * self.batch_size :][: self.batch_size])
        labels = (self.hidden[chosen] @ self.table.T).softmax(-1)
        mask = torch.arange(self.tokens.shape[1]) < self.lengths[chosen, None]
        return Batch(self.tokens[chosen], labels, mask)


@dataclass(frozen=True)
class _Row:
    """How one row of one split gets its batches: (draw, seed) -> batches."""

    name: str
    batches: Callable[[int, int], Batches]
    size: _Size


def headline_metrics(task: str) -> tuple[str, ...]:
    """The metrics whose mean ratio to full data is the headline.

    Example:
        >>> from farzi.experiments.compare import headline_metrics
        >>> headline_metrics("language")
        ('perplexity', 'accuracy')
    """
    if task == "language":
        return ("perplexity", "accuracy")
    return ("HR@10", "HR@100", "nDCG@10", "nDCG@100")


def compare(
    splits: Sequence[Split],
    settings: CompareSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Train and score every row on every split.

    Args:
        splits: the splits, one artifact each.
        settings: how.
        device: where to compute.
        progress: called with (runs done, runs in all, what runs now).

    Returns:
        JSON values: `protocol_line`, `rows` (sizes, mean and standard deviation over runs, chosen
        settings), `paired` (farzi against each other row, 95 % bootstrap over users), `ratios` of
        farzi to full, by metric and their mean, and `splits` with every run.
    """
    plans = [(split, _rows(split, settings)) for split in splits]
    tries = len(settings.lrs) * len(settings.dropouts) + len(settings.smoothings) - 1
    total = sum(len(rows) for _, rows in plans) * (tries + settings.seeds)
    done = 0

    def tick(note: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, note)
        done += 1

    runs: dict[str, list[_Run]] = {}
    sizes: dict[str, _Size] = {}
    chosen: dict[str, list[dict[str, Any]]] = {}
    for split, rows in plans:
        for row in rows:
            best = _tune(split, row, settings, device, tick)
            chosen.setdefault(row.name, []).append(
                {"split_seed": split.data.split_seed, **asdict(best)}
            )
            sizes[row.name] = row.size
            for seed in range(settings.seeds):
                tick(f"split {split.data.split_seed}, {row.name}, seed {seed}")
                started = time.perf_counter()
                student, trained = _train(split, row, best, seed, seed + 1, settings, device)
                wall_s = time.perf_counter() - started
                scores = evaluate(student, trained.params, split.data, "test")
                runs.setdefault(row.name, []).append(
                    _Run(split.data.split_seed, scores, trained, wall_s)
                )
        if "most-popular" in settings.rows and split.data.task == "recommend":
            scores = most_popular(split.data)
            runs.setdefault("most-popular", []).append(
                _Run(split.data.split_seed, scores, None, 0.0)
            )
            sizes["most-popular"] = _Size(0, 0, 4 * split.data.vocabulary.size)
    if progress is not None:
        progress(total, total, "")
    return _result(splits, runs, sizes, chosen, settings)


# ------------------------------------------------------------------------------------- rows


def _rows(split: Split, settings: CompareSettings) -> list[_Row]:
    """The rows that are trained, with the data of each."""
    real = sequences_of(split.data, "train")
    batch_size = int(split.recipe.get("batch_size", 10))
    rows: list[_Row] = []
    for name in settings.rows:
        if name == "full":
            size = _Size(len(real), real.num_tokens, 4 * real.num_tokens)
            rows.append(_Row(name, _full(real, split.context_length, settings.full_batch), size))
        elif name == "farzi" and split.synthetic is not None:
            rows += [
                _Row(own, _synthetic(few, batch_size), _synthetic_size(few))
                for own, few in {**split.also, "farzi": split.synthetic}.items()
            ]
        elif name in ("random", "head"):
            samples = _samples(real, name, split, settings)
            rows.append(
                _Row(name, _hard(samples, split.context_length, batch_size), _sample_size(samples))
            )
        elif name in ("random-soft", "head-soft") and split.teachers:
            samples = _samples(real, name.removesuffix("-soft"), split, settings)
            hard = _sample_size(samples)
            width = len(split.teachers) * int(split.recipe["student"]["width"])
            labels = 4 * width * (hard.tokens - hard.sequences + split.data.vocabulary.size)
            size = replace(hard, num_bytes=hard.num_bytes + labels)
            rows.append(_Row(name, _soft(samples, split, batch_size), size))
    return rows


def _full(real: Sequences, length: int, batch_size: int) -> Callable[[int, int], Batches]:
    return lambda draw, seed: RealBatches(real, length, batch_size, seed)


def _synthetic_size(few: SyntheticSequences) -> _Size:
    return _Size(few.num_sequences, few.num_sequences * few.length, few.num_bytes)


def _synthetic(few: SyntheticSequences, batch_size: int) -> Callable[[int, int], Batches]:
    return lambda draw, seed: SyntheticBatches(few, batch_size, seed)


def _hard(samples: list[Sequences], length: int, batch_size: int) -> Callable[[int, int], Batches]:
    return lambda draw, seed: RealBatches(samples[draw % len(samples)], length, batch_size, seed)


def _soft(samples: list[Sequences], split: Split, batch_size: int) -> Callable[[int, int], Batches]:
    """Batches with the teachers' predictions along each sample."""
    teacher = build_student(split.recipe["student"])
    parts = []
    for sample in samples:
        padded, mask = sample.padded(np.arange(len(sample)), split.context_length + 1)
        tokens = torch.from_numpy(padded)[:, :-1]
        logits = mean_logits(teacher, split.teachers, tokens)
        parts.append((tokens, torch.from_numpy(mask.sum(1)) - 1, *logits))
    return lambda draw, seed: SoftLabelBatches(*parts[draw % len(parts)], batch_size, seed)


def _samples(
    real: Sequences, name: str, split: Split, settings: CompareSettings
) -> list[Sequences]:
    """S real sequences, the end of each: random draws, or the longest histories.

    They have as many positions as a student reads, and one target more.
    """
    if name == "head":
        longest = np.argsort(-real.lengths, kind="stable")[: split.num_sequences]
        return [real.take(longest).last(split.context_length + 1)]
    draws = []
    for draw in range(settings.seeds):
        generator = stream(settings.seed, "row sample", draw)
        chosen = generator.permutation(len(real))[: split.num_sequences]
        draws.append(real.take(chosen).last(split.context_length + 1))
    return draws


def _sample_size(samples: list[Sequences]) -> _Size:
    tokens = round(statistics.fmean(sample.num_tokens for sample in samples))
    return _Size(len(samples[0]), tokens, 4 * tokens)


# --------------------------------------------------------------------------------- training


def _tune(
    split: Split,
    row: _Row,
    settings: CompareSettings,
    device: torch.device | str,
    tick: Callable[[str], None],
) -> _Choice:
    """The choice with the lowest validation loss."""
    losses: dict[_Choice, float] = {}

    def best_of(choices: Iterable[_Choice]) -> _Choice:
        for choice in choices:
            tick(f"split {split.data.split_seed}, {row.name}, {choice}")
            losses[choice] = _train(split, row, choice, 0, 0, settings, device)[1].loss
        return min(losses, key=losses.__getitem__)

    first, *others = settings.smoothings
    grid = itertools.product(settings.lrs, settings.dropouts)
    best = best_of(_Choice(lr, dropout, first) for lr, dropout in grid)
    return best_of([replace(best, smoothing=smoothing) for smoothing in others])


def _train(
    split: Split,
    row: _Row,
    choice: _Choice,
    draw: int,
    seed: int,
    settings: CompareSettings,
    device: torch.device | str,
) -> tuple[Student, Trained]:
    student = build_student({**split.recipe["student"], "dropout": choice.dropout})
    batches = row.batches(draw, seed)
    full = row.name == "full"
    looked = sequences_of(split.data, "validation")
    if len(looked) > settings.validation_size:
        looked = looked.take(np.arange(settings.validation_size))
    trained = train(
        student,
        batches,
        TrainSettings(
            lr=choice.lr,
            max_steps=settings.max_epochs * batches.steps_per_epoch if full else settings.max_steps,
            eval_every=batches.steps_per_epoch if full else 10,
            patience=settings.patience,
            smoothing=choice.smoothing,
            seed=seed,
        ),
        lambda params: validation_loss(student, params, looked),
        device=device,
    )
    return student, trained


# ---------------------------------------------------------------------------------- result


def _result(
    splits: Sequence[Split],
    runs: Mapping[str, list[_Run]],
    sizes: Mapping[str, _Size],
    chosen: Mapping[str, list[dict[str, Any]]],
    settings: CompareSettings,
) -> dict[str, Any]:
    data = splits[0].data
    headline = headline_metrics(data.task)
    order = list(runs)
    rows = [
        {
            "name": name,
            "sequences": sizes[name].sequences,
            "tokens": sizes[name].tokens,
            "bytes": sizes[name].num_bytes,
            "metrics": {
                metric: _spread(runs[name], metric) for metric in runs[name][0].scores.metrics
            },
            "num_runs": len(runs[name]),
            "chosen": chosen.get(name, []),
            "stopped": sorted({run.trained.stopped for run in runs[name] if run.trained}),
            "train_wall_s": round(statistics.fmean(run.wall_s for run in runs[name]), 2),
        }
        for name in order
    ]
    return {
        "protocol_line": data.protocol_line(
            splits[0].context_length, [split.data.split_seed for split in splits]
        ),
        "split_seeds": [split.data.split_seed for split in splits],
        "test_sequences": [len(split.data.test) for split in splits],
        "rows": rows,
        "ratios": _ratios(runs, headline),
        "paired": _paired(runs, (*headline, "loss"), order) if data.task == "recommend" else [],
        "splits": [
            {
                "split_seed": split.data.split_seed,
                "ratios": _ratios(_only(runs, split.data.split_seed), headline),
                "rows": {
                    name: [
                        {
                            "metrics": run.scores.as_dict(),
                            "steps": run.trained.step if run.trained else 0,
                            "validation_loss": run.trained.loss if run.trained else None,
                        }
                        for run in runs[name]
                        if run.split_seed == split.data.split_seed
                    ]
                    for name in order
                },
            }
            for split in splits
        ],
    }


def _spread(runs: list[_Run], metric: str) -> dict[str, float]:
    values = [run.scores.metrics[metric] for run in runs]
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def _only(runs: Mapping[str, list[_Run]], split_seed: int) -> dict[str, list[_Run]]:
    return {
        name: [run for run in of_row if run.split_seed == split_seed]
        for name, of_row in runs.items()
    }


def _ratios(
    runs: Mapping[str, list[_Run]], headline: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Each row's metrics over full data's, perplexity the other way round, and their mean."""
    if "full" not in runs:
        return {}
    full = {metric: _spread(runs["full"], metric)["mean"] for metric in headline}
    ratios = {}
    for name, of_row in runs.items():
        if name == "full":
            continue
        values = {}
        for metric in headline:
            mean = _spread(of_row, metric)["mean"]
            better, worse = (full[metric], mean) if metric == "perplexity" else (mean, full[metric])
            values[metric] = better / worse if worse else float("nan")
        ratios[name] = {**values, "mean": statistics.fmean(values.values())}
    return ratios


def _paired(
    runs: Mapping[str, list[_Run]], headline: tuple[str, ...], order: list[str]
) -> list[dict[str, Any]]:
    """Farzi less each other row: users' means over seeds, users of all splits together."""
    if "farzi" not in runs:
        return []
    paired = []
    for name, metric in itertools.product(order, headline):
        if name == "farzi" or metric not in runs[name][0].scores.per_user:
            continue
        interval = paired_bootstrap(_by_user(runs["farzi"], metric), _by_user(runs[name], metric))
        paired.append(
            {
                "a": "farzi",
                "b": name,
                "metric": metric,
                "difference": interval.difference,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return paired


def _by_user(runs: list[_Run], metric: str) -> npt.NDArray[np.float64]:
    seeds = dict.fromkeys(run.split_seed for run in runs)
    means = [
        np.mean([run.scores.per_user[metric] for run in runs if run.split_seed == seed], axis=0)
        for seed in seeds
    ]
    return np.concatenate(means)
