"""Event logs and texts made ready for a model.

`prepare` turns a source into `PreparedData`: sequences of token ids, split, with the vocabulary
and the protocol that every result is read with. Only what reads a source needs DuckDB, Ibis and
pyarrow; prepared data load with numpy alone.
"""

from __future__ import annotations

from farzi.data.identity import SplitIdentity
from farzi.data.preparation import prepare
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.data.sources import SOURCES, Source, available
from farzi.data.vocabulary import Vocabulary

__all__ = [
    "SOURCES",
    "PreparedData",
    "Sequences",
    "Source",
    "SplitIdentity",
    "Vocabulary",
    "available",
    "prepare",
]
