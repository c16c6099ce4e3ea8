"""`hf`: a dataset folder for `datasets.load_dataset`, with a tokenizer where it is a text."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from farzi.artifact.card import config_name
from farzi.artifact.checks import printable
from farzi.artifact.layout import TOKENIZER, TOKENIZER_CONFIG
from farzi.artifact.tokenizer import tokenizer_files
from farzi.dataset import DistilledDataset
from farzi.export.base import Export, ExportSettings, id_column, new_folder

__all__ = ["export_hugging_face"]

_NAMES = ("data", "vocabulary.parquet", "README.md", TOKENIZER, TOKENIZER_CONFIG)
_CARD = """\
---
pretty_name: {title}
tags: [farzi, dataset-distillation]
configs:
  - config_name: {config}
    data_files: data/train.parquet
    default: true
---

# {name}, distilled, as token ids with soft labels

A row a sequence: `input_ids` (the likeliest token at each place) and for each place the {k}
likeliest labels, `label_ids` with `label_probabilities`, which hold {kept:.1%} of the probability.
`ids` are the tokens in original ids, and `vocabulary.parquet` has the original id of every token. A
model trained on `input_ids` alone is much worse than one trained on the labels as well.
"""


def export_hugging_face(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write a folder that `datasets` and, for a text, `transformers.AutoTokenizer` load."""
    labels = data.top_k(settings.top_k)
    tokens = data.hard().tokens[:, : labels.ids.shape[1]]
    columns: dict[str, list[object]] = {
        name: [] for name in ("input_ids", "ids", "label_ids", "label_probabilities")
    }
    for row, ids, probabilities, mask in zip(
        tokens, labels.ids, labels.probabilities, labels.mask, strict=True
    ):
        columns["input_ids"].append(row[mask].tolist())
        columns["ids"].append(data.decode(row[mask]))
        columns["label_ids"].append(ids[mask].tolist())
        columns["label_probabilities"].append(probabilities[mask].tolist())
    table = pa.table(columns)
    name = str(data.artifact.source["name"])
    with new_folder(out, overwrite=settings.overwrite, names=_NAMES) as draft:
        file = draft / "data" / "train.parquet"
        file.parent.mkdir()
        pq.write_table(table, file)
        originals = pa.table({id_column(data): list(data.vocabulary.ids)})
        pq.write_table(originals, draft / "vocabulary.parquet")
        card = _CARD.format(
            title=json.dumps(f"{name}, distilled", ensure_ascii=False),
            config=config_name(file.read_bytes()),
            name=printable(name),
            k=labels.ids.shape[-1],
            kept=labels.kept,
        )
        (draft / "README.md").write_text(card, encoding="utf-8")
        if data.artifact.source["task"] == "language":
            for file_name, content in tokenizer_files(data.artifact).items():
                (draft / file_name).write_bytes(content)
    known = {token for row in columns["input_ids"] for token in row}  # type: ignore[attr-defined]
    return Export(
        out,
        table.num_rows,
        len(known) / data.vocabulary.size,
        {"top_k": labels.ids.shape[-1], "label_probability_kept": labels.kept},
        (f"datasets.load_dataset({str(out)!r}) reads it.",),
    )
