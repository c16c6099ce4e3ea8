"""`topk`: the likeliest labels of every place with their probabilities, a row a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from farzi.dataset import DistilledDataset
from farzi.export.base import Export, ExportSettings, id_column, new_file

__all__ = ["export_top_k"]


def export_top_k(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write one Parquet file: input token, and k labels of the next one, in long form.

    Columns: `sequence_id`, `position`, the input's original id (the likeliest token at the place),
    `rank` from 1, `label_id`, `probability`. What is missing to 1 lies on the other labels.
    """
    labels = data.top_k(settings.top_k)
    hard = data.hard()
    inputs = hard.tokens[:, : labels.ids.shape[1]][labels.mask].numpy()
    k = labels.ids.shape[-1]
    rows, places = (index.numpy() for index in labels.mask.nonzero(as_tuple=True))
    table = pa.table(
        {
            "sequence_id": np.repeat(rows, k),
            "position": np.repeat(places, k),
            id_column(data): data.vocabulary.decode(np.repeat(inputs, k)),
            "rank": np.tile(np.arange(1, k + 1), len(rows)),
            "label_id": data.vocabulary.decode(labels.ids[labels.mask].numpy()),
            "probability": labels.probabilities[labels.mask].numpy().reshape(-1),
        }
    )
    with new_file(out, overwrite=settings.overwrite) as draft:
        pq.write_table(table, draft)
    known = set(inputs.tolist()) | set(labels.ids[labels.mask].flatten().tolist())
    return Export(
        out,
        table.num_rows,
        len(known) / data.vocabulary.size,
        {"top_k": k, "label_probability_kept": labels.kept},
        (
            f"The {k} likeliest labels hold {labels.kept:.1%} of the probability at a place; "
            "spread the rest over all others, or scale the labels to sum to 1.",
        ),
    )
