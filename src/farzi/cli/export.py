"""`farzi export`: a distilled dataset for other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from farzi.cli._common import DEFAULT_OUTPUT, Output, Seed
from farzi.errors import SettingsError

__all__ = ["export"]

# Which formats a flag is for.
_FLAGS = {
    "samples": ("parquet", "csv", "recbole"),
    "top_k": ("topk", "hf"),
    "dtype": ("artifact",),
    "tokens": ("artifact",),
}


def export(
    artifact: Path,
    /,
    *,
    to: Literal["parquet", "csv", "recbole", "hf", "topk", "artifact"],
    out: Path,
    samples: int | None = None,
    top_k: int | None = None,
    dtype: Literal["float32", "float16", "int8"] | None = None,
    tokens: Literal["auto", "soft", "hard"] | None = None,
    seed: Seed = 0,
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write a distilled dataset in the files that other tools read.

    All formats give the ids of the source. Hard tokens (parquet, csv, recbole) alone train much
    worse models than the soft tokens and labels: topk and hf carry the likeliest labels with their
    probabilities, and in Python farzi.load gives everything.

    Args:
        artifact: an artifact's folder, or the run folder that holds one.
        to: parquet or csv: a row a token with its position; recbole: an .inter file; topk: the
            likeliest labels of each place with their probabilities, in long form; hf: a dataset
            folder with ids and labels; artifact: the artifact with smaller numbers.
        out: the file; for recbole, hf and artifact the folder.
        samples: sequences to draw for each synthetic one; the likeliest tokens without it.
        top_k: labels to keep at each place, 20 without it.
        dtype: how an artifact's factors are stored.
        tokens: of an artifact: hard stores them as ids, auto does so where nothing is lost by it.
        force: replace an earlier export.

    Example:
        farzi export runs/ml-100k --to topk --out ml-100k.parquet
        farzi export runs/ml-100k --to csv --samples 4 --out ml-100k.csv
        farzi export runs/ml-100k --to artifact --dtype float16 --tokens auto --out small
    """
    from farzi.dataset import load
    from farzi.export import ExportSettings
    from farzi.export import export as write

    given = {"samples": samples, "top_k": top_k, "dtype": dtype, "tokens": tokens}
    for name, value in given.items():
        if value is not None and to not in _FLAGS[name]:
            flag = "--" + name.replace("_", "-")
            raise SettingsError(f"{flag} is for --to {' or '.join(_FLAGS[name])}, not for {to}.")
    if to == "artifact" and dtype is None and tokens is None:
        raise SettingsError("--to artifact needs --dtype or --tokens: else nothing would change.")
    if os.path.lexists(out) and not force:
        raise SettingsError(f"--out {out}: is there already; --force replaces an earlier export.")
    settings = ExportSettings(
        samples=samples,
        seed=seed,
        top_k=20 if top_k is None else top_k,
        dtype=dtype,
        tokens=tokens or "soft",
        overwrite=force,
    )
    data = load(artifact)
    done = write(data, to, out, settings)
    unit = "sequences" if to in ("hf", "artifact") else "rows"
    payload = {
        "path": str(done.path),
        "to": to,
        "rows": done.rows,
        "coverage": done.coverage,
        **done.facts,
        "notes": list(done.notes),
    }
    lines = [
        f"{done.path}: {done.rows:,} {unit}; its tokens cover {done.coverage:.1%} of the "
        f"{data.artifact.vocabulary_size:,} ids that there are.",
        *done.notes,
    ]
    output.result(payload, text="\n".join(lines))
