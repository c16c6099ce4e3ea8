"""What every format shares: its settings, its result, and writing whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from farzi.artifact.storage import Dtype
from farzi.data.files import replacing, replacing_folder
from farzi.dataset import DistilledDataset
from farzi.errors import SettingsError

__all__ = [
    "HARD_TOKENS_ALONE",
    "Export",
    "ExportSettings",
    "Exporter",
    "id_column",
    "new_file",
    "new_folder",
]

HARD_TOKENS_ALONE = (
    "Hard tokens alone train much worse models than the soft tokens and labels: "
    "the formats topk and hf carry labels, and farzi.load gives all of both."
)


@dataclass(frozen=True)
class ExportSettings:
    """What may be chosen; a format reads what concerns it.

    Args:
        samples: sequences to draw for each synthetic one; None: the likeliest token at each place.
        seed: of the draws.
        top_k: labels to keep at each place.
        dtype: of an artifact's factors; None: as they are.
        tokens: of an artifact: `soft` or `hard`, or `auto`: hard where nothing is lost by it.
        overwrite: replace what is there, where it is an earlier export.
    """

    samples: int | None = None
    seed: int = 0
    top_k: int = 20
    dtype: Dtype | None = None
    tokens: Literal["auto", "soft", "hard"] = "soft"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be an int >= 1, got {value}.")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file or folder.
        rows: rows of the table, or sequences where there is none.
        coverage: the share of the vocabulary that is among its tokens.
        facts: further numbers by name, such as the probability that the top k hold.
        notes: what a reader should know, a sentence each.
    """

    path: Path
    rows: int
    coverage: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Exporter(Protocol):
    """A format: writes the dataset to a path."""

    def __call__(self, data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
        """Write `data` to `out`, whole or not at all."""
        ...


def id_column(data: DistilledDataset) -> str:
    """Return what a column of original ids is called: `item_id`, or `token` for a text."""
    return "item_id" if data.artifact.source["task"] == "recommend" else "token"


@contextmanager
def new_file(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a name to write to; the file becomes `out` when the block ends well.

    Raises:
        SettingsError: something is there that may not be replaced.
    """
    if os.path.lexists(out) and not (overwrite and out.is_file() and not out.is_symlink()):
        what = "exists already" if out.is_file() and not out.is_symlink() else "is not a file"
        raise SettingsError(f"{out}: {what}, and is not overwritten.")
    with replacing(out) as draft:
        yield draft


@contextmanager
def new_folder(out: Path, *, overwrite: bool, names: Iterable[str]) -> Iterator[Path]:
    """Give a folder to write into; it becomes `out` when the block ends well.

    A folder that is there is replaced only where it holds nothing but files of the same names.

    Args:
        out: the folder.
        overwrite: replace an earlier export.
        names: of the files and folders that the format writes at the top.

    Raises:
        SettingsError: something is there that may not be replaced.
    """
    if os.path.lexists(out) and not (overwrite and out.is_dir() and not out.is_symlink()):
        raise SettingsError(f"{out}: exists already, and is not overwritten.")
    known = set(names)
    with replacing_folder(out, ours=lambda path: path.name in known) as draft:
        yield draft
        if strangers := _files(out) - _files(draft):
            stranger = min(strangers)
            raise SettingsError(
                f"{out}: holds {stranger}, which no export wrote, and is not overwritten."
            )


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
