"""How an event log gets into DuckDB: a reader for each form that it may come in."""

from __future__ import annotations

from farzi.data.readers.base import Log, LogReader
from farzi.data.readers.embedded import PairsReader
from farzi.data.readers.item_blocks import ItemBlocksReader
from farzi.data.readers.jsonl import JsonLinesReader
from farzi.data.readers.known import Known
from farzi.data.readers.memory import TableReader
from farzi.data.readers.parquet import ParquetReader
from farzi.data.readers.table import DelimitedReader
from farzi.data.readers.user_lines import UserLinesReader

__all__ = [
    "DelimitedReader",
    "ItemBlocksReader",
    "JsonLinesReader",
    "Known",
    "Log",
    "LogReader",
    "PairsReader",
    "ParquetReader",
    "TableReader",
    "UserLinesReader",
]
