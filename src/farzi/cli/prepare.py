"""`farzi prepare`: from a source to a folder of sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from farzi.cli._common import DEFAULT_OUTPUT, Output, SplitSeed

__all__ = ["prepare"]


def prepare(
    source: str,
    /,
    *,
    out: Path,
    task: Literal["recommend", "language"] | None = None,
    data_root: Path | None = None,
    split: Literal["users", "leave-last-out"] = "users",
    split_seed: SplitSeed = 0,
    user_col: str | None = None,
    item_col: str | None = None,
    time_col: str | None = None,
    k_core: int = 0,
    min_length: int | None = None,
    repeats: Literal["keep", "first"] | None = None,
    seen_items: Literal["keep", "leave-out"] | None = None,
    vocabulary_size: int | None = None,
    engine: Literal["duckdb", "spark"] = "duckdb",
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Turn a table or a text into sequences and splits.

    A table is Parquet, CSV, TSV, JSON lines or RecBole's .inter, a text is plain; gzip too.

    Args:
        source: a name from `farzi sources`, or a path to a table or a text.
        out: folder to write; every command takes it as a source.
        task: what the source is for, where its name does not tell.
        data_root: folder of the known datasets; without it, the one that FARZI_DATA_ROOT names.
        split: of an event log: 80/10/10 by users, or each user's last two events held out.
        user_col: column of the user; a number, from 1, in a file without a header line.
        item_col: column of the item; likewise.
        time_col: column of the time; likewise, or `row` where the rows are in time order.
        k_core: drop users and items with fewer events, until none is left to drop; 0 is off.
        min_length: drop users with fewer events; the source's own without it, mostly 2.
        repeats: keep them (the default), or only the first event of a user with an item.
        seen_items: whether items that a user already had stay in the ranking; without it, what
            the source says, else keep where more than 5 % of all events repeat an item.
        vocabulary_size: tokens of a text, <unk> and <eos> included: 0 is all, the default 2,000.
        engine: what prepares an event log.
        force: replace the folder if `farzi prepare` wrote it.

    Example:
        farzi prepare ml-100k --data-root ~/datasets --out prepared/ml-100k
        farzi prepare clicks.csv.gz --user-col visitor --item-col page --time-col at --out clicks
    """
    from farzi.data import prepare as prepare_data
    from farzi.data.prepared import check_writable

    check_writable(out, overwrite=force)
    with output.progress("preparing", unit="stages") as progress:
        data = prepare_data(
            source,
            task=task,
            data_root=data_root,
            split=split,
            split_seed=split_seed,
            k_core=k_core,
            min_length=min_length,
            repeats=repeats,
            seen_items=seen_items,
            user_col=user_col,
            item_col=item_col,
            time_col=time_col,
            vocabulary_size=vocabulary_size,
            engine=engine,
            progress=progress,
        )
    data.save(out, overwrite=force)
    line = data.protocol_line()
    output.detail(f"content {data.fingerprint}, training users {data.train_users_hash}")
    counts = ", ".join(
        f"{name} {len(part):,} sequences of {part.num_tokens:,} tokens"
        for name, part in data.parts.items()
    )
    output.result(
        {
            "out": str(out),
            "name": data.name,
            "task": data.task,
            "vocabulary": data.vocabulary.size,
            "fingerprint": data.fingerprint,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
            "protocol": data.protocol,
            "protocol_line": line,
        },
        text=f"{line}\n{counts}\nwrote {out}",
    )
