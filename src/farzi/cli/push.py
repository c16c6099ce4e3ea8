"""`farzi push`: an artifact to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Output

__all__ = ["push"]


def push(
    artifact: Path,
    repo: str,
    /,
    *,
    private: bool = False,
    message: str | None = None,
    endpoint: Annotated[str | None, Parameter(env_var="HF_ENDPOINT")] = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Push an artifact to a dataset repository of the Hugging Face hub.

    The artifact is checked first; its files alone are pushed, in one commit. Synthetic is not
    anonymous: the sequences are made from those of real users. The token is that of
    `hf auth login`, or HF_TOKEN.

    Args:
        artifact: an artifact's folder, or the run folder that holds one.
        repo: the repository, USER/NAME; made where it is not there.
        private: make it private.
        message: of the commit.
        endpoint: another hub than huggingface.co.

    Example:
        farzi push runs/ml-100k me/ml-100k-distilled --private
    """
    from farzi.hub import push as push_artifact

    address = push_artifact(artifact, repo, private=private, message=message, endpoint=endpoint)
    output.result({"repo": repo, "address": address}, text=address)
