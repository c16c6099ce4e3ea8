"""`farzi fetch`: a known dataset from its publisher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Output

__all__ = ["fetch"]


def fetch(
    name: str,
    /,
    *,
    data_root: Annotated[Path | None, Parameter(env_var="FARZI_DATA_ROOT")] = None,
    mirror: Annotated[str | None, Parameter(env_var="FARZI_MIRROR")] = None,
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Download a known dataset from its publisher, every byte checked.

    Later commands find it by its name alone. Its terms, which are its publisher's, are printed
    first. Needs the extra `fetch`.

    Args:
        name: ml-100k, ml-1m, magazine or ptb; `farzi sources` lists their terms.
        data_root: folder to put it in; without it, the user's cache.
        mirror: address of a folder with the publisher's files, where that cannot be reached.
        force: download it again where it is there.

    Example:
        farzi fetch ml-100k
        farzi fetch ptb --data-root ~/datasets --mirror https://files.example.org/public
    """
    from farzi.data.fetching import fetch as fetch_data

    with output.progress("fetch", unit="bytes") as bar:
        files = fetch_data(name, data_root, mirror=mirror, overwrite=force, progress=bar)
    text = "\n".join(map(str, files))
    output.result({"source": name, "files": [str(file) for file in files]}, text=text)
