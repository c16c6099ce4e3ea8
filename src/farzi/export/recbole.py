"""`recbole`: a folder with one atomic file, as RecBole and its relatives read it."""

from __future__ import annotations

from pathlib import Path

from farzi.dataset import DistilledDataset
from farzi.errors import DataError
from farzi.export.base import HARD_TOKENS_ALONE, Export, ExportSettings, new_folder
from farzi.export.interactions import interactions

__all__ = ["export_recbole"]

_HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


def export_recbole(data: DistilledDataset, out: Path, settings: ExportSettings) -> Export:
    """Write OUT/NAME.inter, where NAME is the folder's: a user a sequence, positions as times.

    Raises:
        DataError: an id holds a tab or a line break, which the format cannot quote.
    """
    hard = data.hard(settings.samples, settings.seed)
    table = interactions(hard, "item_id")
    lines = [_HEADER]
    for user, position, item in zip(*(column.to_pylist() for column in table), strict=True):
        if isinstance(item, str) and set(item) & set("\t\n\r"):
            raise DataError(f"the id {item!r} holds a tab or a line break: RecBole cannot read it.")
        lines.append(f"{user}\t{item}\t{position}\n")
    file = f"{out.name}.inter"
    with new_folder(out, overwrite=settings.overwrite, names=[file]) as draft:
        (draft / file).write_text("".join(lines), encoding="utf-8", newline="")
    note = f"RecBole: dataset={out.name!r}, data_path={str(out.parent)!r}."
    return Export(out, table.num_rows, hard.coverage, notes=(HARD_TOKENS_ALONE, note))
