"""What every command shares: flags, output, progress, the error boundary, the allocator.

Nothing here imports torch before a command asks for a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import inspect
import json
import logging
import os
import platform
import re
import signal
import sys
import threading
import time
import traceback as traceback_module
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import cyclopts
from cyclopts import Parameter

from farzi.errors import FarziError, SettingsError

if TYPE_CHECKING:
    import torch
    from rich.console import Console, RenderableType

__all__ = [
    "DEFAULT_OUTPUT",
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_STOPPED",
    "EXIT_USAGE",
    "Device",
    "Output",
    "Progress",
    "Seed",
    "SplitSeed",
    "SplitSeeds",
    "choose_device",
    "ended_by_signals",
    "error_boundary",
    "keep_freed_memory",
    "log_to_stderr",
    "reflow",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped after saving, resume to go on
EXIT_INTERRUPTED = 130

Seed = Annotated[
    int,
    Parameter(help="Seed of the models: their weights and their batches.", env_var="FARZI_SEED"),
]
SplitSeed = Annotated[int, Parameter(help="Seed of the data split.", env_var="FARZI_SPLIT_SEED")]
SplitSeeds = Annotated[
    tuple[int, ...],
    Parameter(
        name="--split-seed",
        consume_multiple=True,
        help="Seeds of the data splits.",
        env_var="FARZI_SPLIT_SEED",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.", env_var="FARZI_DEVICE")
]


def reflow(docstring: str | None) -> str:
    r"""Return a docstring with each paragraph, and each argument, on one line.

    A help page wraps them to the terminal.

    Example:
        >>> from farzi.cli._common import reflow
        >>> print(reflow("Do it\nwell.\n\nArgs:\n    a: the\n        first."))
        Do it well.
        <BLANKLINE>
        Args:
            a: the first.
    """
    lines: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        before = lines[-1] if lines else ""
        indent, own = _indent(line), _indent(before)
        goes_on = indent > own >= 4 or (indent == own == 0 and not re.fullmatch(r"\w+:", before))
        if line and before and goes_on:
            lines[-1] = f"{before} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# ---------------------------------------------------------------------------------------- output


class Progress(Protocol):
    """What a long task calls to say how far it is."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report that `done` of `total` units are finished; `note` says what matters now."""


@Parameter(name="*", group=cyclopts.Group("Output", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command's words go: results to stdout, everything else to stderr.

    Args:
        json: print one JSON object instead of text; `--json FILE` writes it to FILE and prints
            the text.
        json_file: that file.
        quiet: print results only.
        verbose: say more about what is done and why.
        traceback: show where in the code an error arose.
    """

    json: bool = False
    json_file: Annotated[Path | None, Parameter(show=False)] = None
    quiet: Annotated[bool, Parameter(alias="-q", env_var="FARZI_QUIET")] = False
    verbose: Annotated[bool, Parameter(alias="-v", env_var="FARZI_VERBOSE")] = False
    traceback: bool = False

    def say(self, message: str) -> None:
        """Print one line to stderr, unless quiet."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def detail(self, message: str) -> None:
        """Print one line to stderr when verbose."""
        if self.verbose and not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def result(self, payload: Mapping[str, Any], *, text: RenderableType) -> None:
        """Print the command's result to stdout.

        Args:
            payload: what `--json` prints, as one object; a value that is not finite is null.
            text: what a person reads: a string, or a rich table.
        """
        if self.json_file is not None:
            from farzi.data.files import write_text

            write_text(self.json_file, to_json(payload) + "\n")
        if self.json:
            print(to_json(payload))
        elif isinstance(text, str):
            print(text)
        else:
            _stdout_console().print(text)

    @contextlib.contextmanager
    def progress(
        self, task: str, *, unit: str = "steps", time_left: bool = True
    ) -> Iterator[Progress]:
        """Show how far a task is, with the time left, on stderr.

        On a terminal a bar is redrawn; elsewhere a line is printed every few seconds, so that
        a log stays readable. Quiet shows nothing.

        Args:
            task: a word or two that name the task.
            unit: what is counted.
            time_left: estimate the time left from the counts; False where the notes tell it better.
        """
        if self.quiet:
            yield _no_progress
        elif sys.stderr.isatty():
            with _progress_bar(task, unit, time_left) as report:
                yield report
        else:
            yield _ProgressLines(task, unit, time_left=time_left)


Output.__doc__ = reflow(Output.__doc__)
DEFAULT_OUTPUT = Output()


def to_json(payload: Mapping[str, Any]) -> str:
    """Return `payload` as indented JSON that every parser reads: no NaN, no infinities.

    Example:
        >>> from farzi.cli._common import to_json
        >>> print(to_json({"ratio": float("nan")}))
        {
          "ratio": null
        }
    """
    return json.dumps(_finite(payload), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _stdout_console() -> Console:
    """Return a console on stdout; a table that goes to a file is not cut at 80 columns."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _no_progress(done: int, total: int | None = None, note: str = "") -> None:
    """Say nothing."""


@contextlib.contextmanager
def _progress_bar(task: str, unit: str, time_left: bool) -> Iterator[Progress]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=30),
        bars.MofNCompleteColumn(),
        bars.TextColumn(unit),
        *([bars.TimeRemainingColumn(elapsed_when_finished=True)] if time_left else []),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(task, total=None, note="")

        stage: tuple[int, int | None] = (0, None)

        def report(done: int, total: int | None = None, note: str = "") -> None:
            nonlocal stage
            if done < stage[0] or total != stage[1]:
                bar.reset(row, total=total)
            stage = done, total
            bar.update(row, completed=done, total=total, note=note)

        yield report


class _ProgressLines:
    """Progress as lines of text, at most one every `interval_s` and one at the end.

    A new total, or a count that goes back, is a new stage: the time left is that of the stage.
    """

    def __init__(
        self, task: str, unit: str, interval_s: float = 5.0, *, time_left: bool = True
    ) -> None:
        self.time_left = time_left
        self.task = task
        self.unit = unit
        self.interval_s = interval_s
        self.called_s = self.started_s = self.printed_s = time.monotonic()
        self.before, self.done = 0, 0
        self.total: int | None = None

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        now_s = time.monotonic()
        if done < self.done or total != self.total:
            self.started_s, self.before = self.called_s, max(0, done - 1)
        self.called_s, self.done, self.total = now_s, done, total
        if now_s - self.printed_s < self.interval_s and done != total:
            return
        self.printed_s = now_s
        elapsed_s = now_s - self.started_s
        of = f"/{total:,}" if total else ""
        parts = [f"{self.task}: {done:,}{of} {self.unit}"]
        if total and done:
            parts[0] = f"{self.task}: {done:,}/{total:,} {self.unit} ({done / total:.0%})"
            left_s = elapsed_s * (total - done) / max(1, done - self.before)
            parts.extend([f"{left_s:.0f} s left"] if self.time_left else [])
        parts.extend([note] if note else [])
        print(", ".join(parts), file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------- errors


@dataclass
class Outcome:
    """The exit code of the command inside an `error_boundary`."""

    code: int = EXIT_DONE


@contextlib.contextmanager
def error_boundary(
    *, traceback: bool = False, flags: Callable[[], Collection[str]] = frozenset
) -> Iterator[Outcome]:
    """Turn what is raised inside into one line on stderr and an exit code.

    Args:
        traceback: print the traceback above that line.
        flags: the flags of the command, asked for when an error names an argument.
    """
    outcome = Outcome()
    try:
        yield outcome
        sys.stdout.flush()
    except SystemExit as error:
        outcome.code = error.code if isinstance(error.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        outcome.code = EXIT_INTERRUPTED
        print("interrupted", file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output has gone, as after `| head`: there is no one left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        outcome.code = EXIT_FAILED
    except Exception as error:
        if traceback:
            traceback_module.print_exception(error)
        outcome.code, message = describe_error(error, flags())
        print(f"farzi: {message}", file=sys.stderr)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Leave at SIGTERM and SIGINT as at an error, so that drafts are removed.

    While a module is being imported it waits until that is done, at most `IMPORT_SECONDS`: an
    exception in the middle of `import torch` can reach C++, which ends the process with SIGABRT.

    A command that saves and stops, as `distill` does, sets handlers of its own for that time.
    """
    got: list[int] = []
    waiting: list[threading.Timer] = []
    since_s: list[float] = []

    def leave(number: int, frame: FrameType | None) -> None:
        since_s.append(time.monotonic())
        if _is_importing(frame) and since_s[-1] - since_s[0] < IMPORT_SECONDS:
            waiting.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
            waiting[-1].daemon = True
            waiting[-1].start()
            return
        got.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        print("stopped by SIGTERM; run it again", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Exception:  # what a library made of it, such as DuckDB's `Query interrupted`
        if not got:
            raise
        if got[0] == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(EXIT_STOPPED) from None
    finally:
        try:
            for timer in waiting:
                timer.cancel()
                timer.join()  # what it sends comes while the handlers are still these
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


IMPORT_SECONDS = 20.0
"""How long a signal waits for an import to end, at most."""


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported where a signal came."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def describe_error(error: Exception, flags: Collection[str] = ()) -> tuple[int, str]:
    """Return the exit code of an error and the one line that states it.

    Args:
        error: what was raised.
        flags: those of the command, by which arguments are called: `inner_steps` is
            `--inner-steps` where there is such a flag, and `--set inner_steps` where settings
            are given by name.

    Example:
        >>> from farzi.cli._common import describe_error
        >>> describe_error(
        ...     ValueError("`inner_steps` must be an int >= 1, got 0."), ["--inner-steps"])
        (2, '--inner-steps must be an int >= 1, got 0.')
    """
    if isinstance(error, cyclopts.CycloptsError):
        return EXIT_USAGE, _one_line(_describe_parse_error(error))
    message = _name_flags(_one_line(str(error)), flags)
    if isinstance(error, SettingsError):
        return EXIT_USAGE, message
    if isinstance(error, FarziError):
        return EXIT_FAILED, message
    if isinstance(error, ValueError) and re.match(r"`\w+` must", str(error)):
        return EXIT_USAGE, message
    if isinstance(error, OSError) and error.filename is not None:
        return EXIT_FAILED, f"{error.filename}: {error.strerror}"
    return EXIT_FAILED, f"{type(error).__name__}: {message} (--traceback shows where)"


_CALLED = {  # arguments whose flags have another name
    "overwrite": "--force",
    "lrs": "--grid-lr",
    "batches": "--full-batch",
    "decays": "--grid-decay",
    "dropouts": "--grid-dropout",
    "smoothings": "--grid-smoothing",
    "schedules": "--grid-schedule",
    "shifts": "--grid-shift",
    "num_steps": "--grid-steps",
}


def _name_flags(message: str, flags: Collection[str]) -> str:
    """Call the arguments that a message names as the command line calls them."""

    def call(match: re.Match[str]) -> str:
        flag = _CALLED.get(match[1], to_flag(match[1]))
        if flag in flags:
            return flag
        is_setting = match.start() == 0 and "--set" in flags
        return f"--set {match[1]}" if is_setting else match[0]

    return re.sub(r"`([a-z_]+)`", call, message)


def to_flag(name: str) -> str:
    """Return the flag of an argument: `inner_steps` is `--inner-steps`."""
    return "--" + name.replace("_", "-")


def _describe_parse_error(error: cyclopts.CycloptsError) -> str:
    """State a parse error; an unknown option lists its close matches."""
    if not isinstance(error, cyclopts.UnknownOptionError):
        return str(error)
    option = error.token.keyword or error.token.value
    known = [name for argument in error.argument_collection for name in argument.names]
    matches = difflib.get_close_matches(option, known, n=3, cutoff=0.6)
    close = f" Close matches: {', '.join(matches)}." if matches else ""
    return f"unknown option {option}.{close}"


def _one_line(message: str) -> str:
    return " ".join(message.split())


# ------------------------------------------------------------------------------- memory, device

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_THRESHOLD = -3
_KEEP_BELOW = 1 << 30  # bytes; a larger block still goes back to the kernel
_KEEP_BELOW_OLD = 32 << 20  # the most that a glibc which checks the value takes
_TRIM_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep large freed blocks, so that the next step finds them again.

    By default glibc maps every large block from the kernel and gives it back when it is freed,
    and each use of it faults its pages in anew.

    Returns:
        whether glibc took both thresholds; False where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    took_mmap = mallopt(_M_MMAP_THRESHOLD, _KEEP_BELOW) or mallopt(
        _M_MMAP_THRESHOLD, _KEEP_BELOW_OLD
    )
    took_trim = mallopt(_M_TRIM_THRESHOLD, _TRIM_NEVER)
    return bool(took_mmap and took_trim)


def choose_device(device: str) -> tuple[torch.device, str]:
    """Return the device to compute on, and why (`farzi.devices.choose_device`)."""
    from farzi import devices

    return devices.choose_device(device)


# --------------------------------------------------------------------------------------- logging


class _ToStderr(logging.Handler):
    """Prints what the library logs to where stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; a warning says that it is one."""
        note = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(f"{note}{record.getMessage()}", file=sys.stderr, flush=True)


def _is_on(variable: str) -> bool:
    """Whether a variable of the environment says yes, as a flag reads it."""
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on")


@contextlib.contextmanager
def log_to_stderr(tokens: Sequence[str]) -> Iterator[None]:
    """Print what the logger `farzi` is told: with `-v` more, with `-q` errors alone."""
    short = "".join(token[1:] for token in tokens if re.fullmatch(r"-[a-z]+", token))
    level = logging.INFO
    if "--verbose" in tokens or "v" in short or _is_on("FARZI_VERBOSE"):
        level = logging.DEBUG
    if "--quiet" in tokens or "q" in short or _is_on("FARZI_QUIET"):
        level = logging.ERROR
    logger, handler = logging.getLogger("farzi"), _ToStderr()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
