"""Distil event logs and text corpora into a few synthetic sequences.

Importing this package loads nothing heavy: torch, duckdb and pyarrow come with the submodules.
"""

__version__ = "0.1.0"
