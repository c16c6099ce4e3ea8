"""`farzi sources`: the known datasets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from farzi.cli._common import DEFAULT_OUTPUT, Output

if TYPE_CHECKING:
    from rich.table import Table

    from farzi.data import Source

__all__ = ["sources"]


def sources(*, data_root: Path | None = None, output: Output = DEFAULT_OUTPUT) -> None:
    """List the known datasets, which are at hand, and their licences.

    Args:
        data_root: folder of the datasets; without it, the one that FARZI_DATA_ROOT names.

    Example:
        farzi sources --data-root ~/datasets
    """
    from farzi.data import SOURCES, available

    at_hand = available(data_root)
    payload = [_describe(source, at_hand=at_hand[name]) for name, source in SOURCES.items()]
    output.result({"sources": payload}, text=_table(list(SOURCES.values()), at_hand))


def _describe(source: Source, *, at_hand: bool) -> dict[str, object]:
    fields = asdict(source)
    copies, downloads = fields.pop("copies"), fields.pop("downloads")
    return {
        **fields,
        "at_hand": at_hand,
        "files": [list(copy["files"]) for copy in copies],
        "downloads": [download["url"] for download in downloads],
    }


def _how_to_have(source: Source) -> str:
    if source.downloads:
        return f"no: farzi fetch {source.name}"
    return f"no: {source.copies[0].files[0]}"


def _table(sources: list[Source], at_hand: dict[str, bool]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("source", "task", "at hand", "what it is", "licence"):
        table.add_column(heading)
    for source in sources:
        here = "yes" if at_hand[source.name] else _how_to_have(source)
        table.add_row(source.name, source.task, here, source.title, source.licence)
    return table
