"""The rows of a comparison by name: a file each, loaded when it is built.

A row `NAME` is the value `ROW` of `farzi/experiments/rows/NAME.py`, with `_` for `-`. A new one is
that file and one line in `ROWS`; tables show rows in this order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farzi.experiments.rows.base import Row

__all__ = ["ROWS", "load_row"]

ROWS = {
    "full": "all training sequences",
    "full-soft": "the same with the teachers' labels",
    "teachers": "the mean prediction of the teachers themselves",
    "random": "real sequences drawn at random",
    "random-soft": "the same with the teachers' labels",
    "random-tenth": "a tenth of the real sequences",
    "head": "the longest real sequences",
    "head-soft": "the same with the teachers' labels",
    "coreset-soft": "real sequences that stand for all others, with the teachers' labels",
    "farzi": "distilled sequences",
    "most-popular": "items by their count in training",
}


def load_row(name: str) -> Row:
    """The row of this name.

    Example:
        >>> from farzi.experiments.rows import load_row
        >>> load_row("random").drawn
        True
    """
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    row: Row = module.ROW
    return row
