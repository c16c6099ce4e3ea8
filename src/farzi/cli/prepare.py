"""`farzi prepare`: from a source to a folder of sequences."""

from __future__ import annotations

from pathlib import Path

from farzi.cli._common import DEFAULT_OUTPUT, Output, SplitSeed
from farzi.cli._source import DEFAULT_READING, Reading
from farzi.errors import SettingsError

__all__ = ["prepare"]


def prepare(
    source: str,
    /,
    *,
    out: str,
    reading: Reading = DEFAULT_READING,
    split_seed: SplitSeed = 0,
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Turn a table or a text into sequences and splits.

    A table is Parquet (one file, or a folder of parts), CSV, TSV, JSON lines, RecBole's .inter, or
    a file with one user a line; a text is a plain file, or a folder with train, valid and test
    texts; gzip too.

    Args:
        source: a name from `farzi sources`, or a path to a table or a text.
        out: folder to write; every command takes it as a source. With --engine spark also an
            address such as hdfs://... or s3a://..., where the sequences stay in parts; a copy of
            them is a source too.
        force: replace the folder if `farzi prepare` wrote it.

    Example:
        farzi prepare ml-100k --data-root ~/datasets --out prepared/ml-100k
        farzi prepare clicks.csv.gz --user-col visitor --item-col page --time-col at --out clicks
        farzi prepare parts/ --seen-items leave-out --out shop
        farzi prepare s3a://logs/2026 --engine spark --tie-col sequence --out s3a://prepared/2026
    """
    from farzi.data import prepare as prepare_data
    from farzi.data.prepared import check_writable
    from farzi.data.sources import is_address

    if is_address(out):
        _prepare_parts(source, out, reading, split_seed, force, output)
        return
    folder = Path(out)
    check_writable(folder, overwrite=force)
    with output.progress("preparing", unit="stages") as progress:
        data = prepare_data(
            source,
            split_seed=split_seed,
            **reading.asked,
            progress=progress,
        )
    data.save(folder, overwrite=force)
    line = data.protocol_line()
    output.detail(f"content {data.fingerprint}, training users {data.train_users_hash}")
    counts = ", ".join(
        f"{name} {len(part):,} sequences of {part.num_tokens:,} tokens"
        for name, part in data.parts.items()
    )
    said = [f"note: {note}" for note in data.notes] + [f"warning: {w}" for w in data.warnings]
    if output.json:
        for warning in data.warnings:
            output.say(f"warning: {warning}")
    output.result(
        {
            "out": out,
            "name": data.name,
            "task": data.task,
            "vocabulary": data.vocabulary.size,
            "fingerprint": data.fingerprint,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
            "protocol": data.protocol,
            "protocol_line": line,
            "notes": list(data.notes),
            "warnings": list(data.warnings),
        },
        text="\n".join([line, counts, *said, f"wrote {out}"]),
    )


def _prepare_parts(
    source: str, out: str, reading: Reading, split_seed: int, force: bool, output: Output
) -> None:
    """Prepare on a cluster, and leave the sequences at an address."""
    from farzi.data.preparation import prepare_parts

    if reading.engine != "spark":
        raise SettingsError(f"--out {out}: only --engine spark writes to an address.")
    if force:
        raise SettingsError("--force: what is at an address is not replaced; remove it first.")
    with output.progress("preparing", unit="stages") as progress:
        record = prepare_parts(
            source, out, split_seed=split_seed, **reading.asked, progress=progress
        )
    sizes = {name: size for name, size in record["counts"].items() if name != "items"}
    counts = ", ".join(
        f"{name} {sequences:,} sequences of {tokens:,} tokens"
        for name, (sequences, tokens) in sizes.items()
    )
    said = [f"note: {note}" for note in record["notes"]]
    said += [f"warning: {warning}" for warning in record["warnings"]]
    output.result(
        {"out": out, **record},
        text="\n".join([counts, *said, f"wrote {out}, in parts"]),
    )
