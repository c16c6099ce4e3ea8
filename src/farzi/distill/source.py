"""`farzi.distill(...)`: from a source to a run, with plain arguments."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from farzi.data import prepare
from farzi.data.arguments import HowRead
from farzi.data.prepared import PreparedData
from farzi.devices import Device, choose_device
from farzi.distill.folder import OnRecord
from farzi.distill.objectives import Objective
from farzi.distill.presets import parse_size
from farzi.distill.run import RunOutcome
from farzi.distill.run import distill as distill_prepared
from farzi.distill.settings import DistillSettings, StudentSettings
from farzi.distill.starts import Start
from farzi.distill.stopping import ShouldStop, never
from farzi.distill.world import ALONE, World
from farzi.errors import SettingsError
from farzi.metagrad import Adjoint, Optimizer
from farzi.models import Student

__all__ = ["distill_source"]

_log = logging.getLogger("farzi")


def distill_source(
    source: Any,
    out: str | os.PathLike[str],
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    size: str | None = None,
    latent_dim: int | None = None,
    outer_steps: int | None = None,
    inner_steps: int | None = None,
    window: int | None = None,
    student: Student | StudentSettings | str | None = None,
    objective: Objective | str | None = None,
    start: Start | str | None = None,
    optimizer: Optimizer | str | None = None,
    adjoint: Adjoint | str | None = None,
    seed: int | None = None,
    resume: bool = False,
    device: Device = "auto",
    progress: Callable[[int, int, str], None] | None = None,
    on_record: OnRecord | None = None,
    should_stop: ShouldStop = never,
    world: World = ALONE,
    **read: Unpack[HowRead],
) -> RunOutcome:
    r"""Distil a source into a few synthetic sequences; `farzi.distill` is this function.

    Args:
        source: what `farzi.prepare` returned, or anything that it takes.
        out: run folder; it must be empty or missing unless `resume`.
        settings: all of them, or some by (nested or dotted) name, over what suits the source.
        size: sequences x length, such as `50x50`.
        latent_dim: rank of the factors.
        outer_steps: steps of the outer loop; 0 keeps the start as it is.
        inner_steps: steps a student is trained for.
        window: inner steps that one meta-gradient goes through.
        student: the model to distil for: a value, or its name.
        objective: what the outer loop lowers: a value, or its name.
        start: where the sequences begin: a value, or its name.
        optimizer: the inner optimiser: a value, or its name.
        adjoint: how a window of inner steps is differentiated: a value, or its name.
        seed: of everything drawn.
        resume: go on with the run in `out`; the settings must be those it was begun with.
        device: `auto`, `cpu`, `cuda` or a torch device.
        progress: called with (done, in all, what is done now); a new total is a new stage.
        on_record: called with every record of `metrics.jsonl` when it is made.
        should_stop: asked before every inner step; True saves what is complete and returns.
        world: the processes of this run; only the first writes the result.
        read: how the source is read: arguments of `farzi.prepare`.

    Returns:
        what the run left: its folder, its artifact, and the validation loss of fresh students.

    Raises:
        SettingsError: a setting is wrong, `out` is in use, or its settings differ.
        RunLockedError: another process writes to `out`.
        DataError: the source cannot be read, or is too small.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import farzi
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Path(folder, "log.csv")
        ...     rows = [f"u{n // 9},film{(n + n // 9) % 7},{n}" for n in range(180)]
        ...     _ = log.write_text("user,item,time\n" + "\n".join(rows))
        ...     run = farzi.distill(
        ...         log, Path(folder, "run"), size="4x8", start="random", outer_steps=0,
        ...         inner_steps=5, window=5)
        ...     distilled = farzi.load(Path(folder, "run"))
        >>> run.stopped, len(distilled)
        ('all outer steps taken', 4)
    """
    flags = {
        "latent_dim": latent_dim,
        "outer.steps": outer_steps,
        "inner.steps": inner_steps,
        "inner.window": window,
        "seed": seed,
        **parse_size(size),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if isinstance(settings, DistillSettings):
        settings = settings.with_values(given)
    elif given:
        settings = {**(settings or {}), **given}
    if isinstance(source, PreparedData):
        if read:
            raise SettingsError(f"`{next(iter(read))}` is of no use: the source is prepared.")
        data = source
    else:
        data = prepare(source, **read)
    chosen, reason = choose_device(device)
    _log.debug("device %s: %s", chosen, reason)
    known = settings.context_length if isinstance(settings, DistillSettings) else None
    _log.info("%s", data.protocol_line(known))
    for warning in data.warnings:
        _log.warning("%s", warning)

    def report(stage: str, done: int, total: int, note: str) -> None:
        if progress is not None:
            progress(done, total, f"{stage}: {note}" if note else stage)

    return distill_prepared(
        data,
        out,
        settings,
        student=student,
        objective=objective,
        start=start,
        optimizer=optimizer,
        adjoint=adjoint,
        resume=resume,
        device=chosen,
        report=report,
        on_record=on_record,
        should_stop=should_stop,
        world=world,
    )
