"""`parquet` and `csv`: interactions in long form, a row a token."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from farzi.dataset import DistilledDataset, HardTokens
from farzi.export.base import HARD_TOKENS_ALONE, Export, ExportSettings, id_column, new_file

__all__ = ["export_csv", "export_parquet", "interactions"]


def interactions(hard: HardTokens, column: str) -> pa.Table:
    """Return `sequence_id`, `position` and the original id, a row a real token.

    Args:
        hard: the tokens; each of their rows becomes a sequence of its own.
        column: what the column of original ids is called.
    """
    rows, places = (index.numpy() for index in hard.mask.nonzero(as_tuple=True))
    originals = hard.vocabulary.decode(hard.tokens[hard.mask].numpy())
    return pa.table({"sequence_id": rows, "position": places, column: originals})


def export_parquet(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write one Parquet file."""
    hard = data.hard(settings.samples, settings.seed)
    table = interactions(hard, id_column(data))
    with new_file(out, overwrite=settings.overwrite) as draft:
        pq.write_table(table, draft)
    return Export(out, table.num_rows, hard.coverage, notes=(HARD_TOKENS_ALONE,))


def export_csv(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write one CSV file with a header line."""
    hard = data.hard(settings.samples, settings.seed)
    table = interactions(hard, id_column(data))
    with new_file(out, overwrite=settings.overwrite) as draft:
        pa.csv.write_csv(table, draft)
    return Export(out, table.num_rows, hard.coverage, notes=(HARD_TOKENS_ALONE,))
