"""A distilled dataset in the files that other tools read.

A format is a function in a file of its own here, and a line in `FORMATS`. All give the original ids
of the source, and interactions in long form: a row a place, with its position.

Hard tokens say much less than the soft tokens and labels they stand for, and models trained on them
alone are much worse; `topk` and `hf` carry the likeliest labels with their probabilities.
"""

from __future__ import annotations

import os
from pathlib import Path

from farzi.dataset import DistilledDataset
from farzi.errors import SettingsError
from farzi.export.artifact import export_artifact
from farzi.export.base import Export, Exporter, ExportSettings
from farzi.export.hugging_face import export_hugging_face
from farzi.export.interactions import export_csv, export_parquet
from farzi.export.recbole import export_recbole
from farzi.export.top_k import export_top_k

__all__ = ["FORMATS", "Export", "ExportSettings", "export"]

FORMATS: dict[str, Exporter] = {
    "parquet": export_parquet,
    "csv": export_csv,
    "recbole": export_recbole,
    "hf": export_hugging_face,
    "topk": export_top_k,
    "artifact": export_artifact,
}


def export(
    data: DistilledDataset,
    to: str,
    out: str | os.PathLike[str],
    settings: ExportSettings | None = None,
) -> Export:
    """Write a distilled dataset in another tool's format, whole or not at all.

    Args:
        data: what to write.
        to: a name in `FORMATS`.
        out: the file, or for `recbole`, `hf` and `artifact` the folder.
        settings: samples, top k, dtype.

    Returns:
        What was written, how much of the catalogue it covers, and what to know of it.

    Raises:
        SettingsError: there is no such format, or something is at `out`.
        DataError: the format cannot hold an id of this source.

    Example:
        >>> import farzi
        >>> from farzi.export import export
        >>> data = farzi.load("runs/ml-100k")  # doctest: +SKIP
        >>> export(data, "csv", "ml-100k.csv").coverage  # doctest: +SKIP
        0.41
    """
    if to not in FORMATS:
        raise SettingsError(f"there is no format {to!r}: take {', '.join(FORMATS)}.")
    target = Path(out)
    if os.path.lexists(target) and not (settings or ExportSettings()).overwrite:
        raise SettingsError(f"{target}: exists already, and is not overwritten.")
    target.parent.mkdir(parents=True, exist_ok=True)
    return FORMATS[to](data, target, settings or ExportSettings())
