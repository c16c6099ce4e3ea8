"""`farzi reproduce`: distil again from an artifact's own record, and compare."""

from __future__ import annotations

from pathlib import Path

from farzi.cli._common import (
    DEFAULT_OUTPUT,
    EXIT_DONE,
    EXIT_FAILED,
    Device,
    Output,
)
from farzi.cli._source import DEFAULT_READING, On, Reading

__all__ = ["reproduce"]


def reproduce(
    artifact: Path,
    /,
    *,
    out: Path | None = None,
    resume: bool = False,
    on: On = None,
    reading: Reading = DEFAULT_READING,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> int:
    """Distil again from an artifact's own record, and compare.

    The record holds every setting, the source's fingerprint, the seeds, versions, kernels and the
    number of threads. One line says whether all files are the same bytes and, where not, what
    differs. It exits with 1 where a number differs.

    Args:
        artifact: an artifact's folder, or the run folder that holds one.
        out: run folder of the second distillation; it is not kept without it.
        resume: go on with the run in OUT.

    Example:
        farzi reproduce runs/calls
        farzi reproduce runs/ml-100k --out runs/again --json
    """
    from farzi.cli._stopping import stop_on_signal
    from farzi.errors import SettingsError
    from farzi.reproduction import reproduce as distil_again

    if resume and out is None:
        raise SettingsError("--resume needs --out: nothing is kept without it.")
    with stop_on_signal() as stop, output.progress("distil again", unit="") as bar, stop.polled():
        found = distil_again(
            artifact,
            out,
            on=on,
            resume=resume,
            device=device,
            progress=bar,
            should_stop=stop.asked,
            **reading.asked,
        )
    if found is None:
        output.say("stopped; --out with --resume goes on." if out else "stopped; nothing is kept.")
        return stop.code
    output.result(found.to_json(), text=found.line)
    return EXIT_DONE if found.same_numbers else EXIT_FAILED
