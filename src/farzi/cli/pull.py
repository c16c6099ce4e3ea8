"""`farzi pull`: an artifact from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Output

__all__ = ["pull"]


def pull(
    repo: str,
    /,
    *,
    out: Path,
    revision: str | None = None,
    force: bool = False,
    endpoint: Annotated[str | None, Parameter(env_var="HF_ENDPOINT")] = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Pull an artifact from a dataset repository of the Hugging Face hub.

    It is checked in full before it takes its place; nothing in it is code.

    Args:
        repo: the repository, USER/NAME.
        out: the folder to make.
        revision: a branch, a tag or a commit.
        force: replace an artifact that is there.
        endpoint: another hub than huggingface.co.

    Example:
        farzi pull me/ml-100k-distilled --out runs/pulled
        farzi inspect runs/pulled
    """
    from farzi.dataset import load
    from farzi.hub import pull as pull_artifact

    folder = pull_artifact(repo, out, revision=revision, overwrite=force, endpoint=endpoint)
    output.result({"path": str(folder), "repo": repo}, text=f"{folder}: {load(folder)!r}")
