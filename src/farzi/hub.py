"""Artifacts on the Hugging Face hub: pushed as a dataset repository, pulled and checked.

Only the files of an artifact travel, and what is pulled passes every check of `read_artifact`
before it takes its place. This module needs the extra `hub`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farzi.artifact import check_writable, locate_artifact, read_artifact
from farzi.artifact.checks import short
from farzi.artifact.layout import FILES, MAX_BYTES
from farzi.artifact.writing import is_ours
from farzi.data.files import replacing_folder
from farzi.errors import ArtifactError, SettingsError

__all__ = ["pull", "push"]

_HTTP_LIBRARIES = ("requests", "httpx", "httpx2")  # which one, the library's version decides


def push(
    path: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    message: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Push an artifact to a dataset repository of the hub, making the repository where needed.

    The token is that of `hf auth login`, or of the environment variable HF_TOKEN.

    Args:
        path: an artifact's folder, or the run folder that holds one. It is checked first.
        repo: `user/name`.
        private: of a repository that is made now.
        message: of the commit.
        endpoint: another hub than huggingface.co.

    Returns:
        The address of the dataset.

    Raises:
        ArtifactError: the artifact is broken, or the hub refuses it or is not reached.
        SettingsError: `repo` is no name of a repository, or the extra `hub` is missing.
    """
    hub = _import_hub()
    folder = locate_artifact(path)
    artifact = read_artifact(folder)
    api = hub.HfApi(endpoint=endpoint)
    with _one_line(hub, repo):
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=sorted(FILES),
            delete_patterns=sorted(FILES),
            commit_message=message or f"{artifact.source['name']}, distilled by farzi",
        )
    return f"{api.endpoint}/datasets/{repo}"


def pull(
    repo: str,
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
) -> Path:
    """Pull an artifact from a dataset repository of the hub, whole and checked or not at all.

    Args:
        repo: `user/name`.
        out: the folder to make.
        revision: a branch, a tag or a commit; the main branch when None.
        overwrite: replace an artifact that is there.
        endpoint: another hub than huggingface.co.

    Returns:
        `out`.

    Raises:
        ArtifactError: there is no such artifact, it is broken or too large, or the hub is not
            reached.
        SettingsError: `repo` is no name of a repository, something is at `out`, or the extra `hub`
            is missing.
    """
    hub = _import_hub()
    target = Path(out)
    check_writable(target, overwrite=overwrite)
    with replacing_folder(target, ours=_is_download) as draft:
        cache = draft / _CACHE
        with _one_line(hub, repo):
            api = hub.HfApi(endpoint=endpoint)
            info = api.dataset_info(repo, revision=revision, files_metadata=True)
            _check_sizes(repo, info.siblings)
            api.snapshot_download(
                repo,
                repo_type="dataset",
                revision=info.sha,
                local_dir=draft,
                allow_patterns=sorted(FILES),
                cache_dir=cache,
            )
        shutil.rmtree(cache, ignore_errors=True)
        try:
            read_artifact(draft)
        except ArtifactError as error:
            raise ArtifactError(f"{repo}: {str(error).replace(f'{draft}{os.sep}', '')}") from None
    return target


_CACHE = ".cache"  # of the hub's own library, which keeps one in the folder that it writes to


def _is_download(path: Path) -> bool:
    return is_ours(path) or path.name == _CACHE


def _check_sizes(repo: str, files: Any) -> None:
    """Refuse what is too large before it is downloaded."""
    for file in files or ():
        if file.rfilename in FILES and (file.size or 0) > MAX_BYTES:
            raise ArtifactError(
                f"{repo}: {file.rfilename} has {file.size:,} bytes, more than {MAX_BYTES:,}."
            )


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise SettingsError("the hub needs the extra `hub`: pip install 'farzi[hub]'.") from None
    return huggingface_hub


@contextlib.contextmanager
def _one_line(hub: Any, repo: str) -> Iterator[None]:
    """Say in one line what the hub or the way to it refused."""
    errors = hub.errors
    try:
        yield
    except errors.HFValidationError:
        raise SettingsError(f"{short(repo)}: no name of a repository, such as user/name.") from None
    except errors.RevisionNotFoundError:
        raise ArtifactError(f"{repo}: there is no such revision.") from None
    except errors.RepositoryNotFoundError:
        raise ArtifactError(
            f"{repo}: there is no such dataset on the hub, or it is private and the token of "
            "`hf auth login` (or HF_TOKEN) may not read it."
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ArtifactError(
                f"{repo}: the hub wants a token that may write there: `hf auth login`, or HF_TOKEN."
            ) from None
        raise ArtifactError(f"{repo}: the hub answered {status}: {short(str(error))}") from None
    except Exception as error:
        on_disk = isinstance(error, OSError) and error.filename is not None
        from_the_way = type(error).__module__.split(".")[0] in _HTTP_LIBRARIES
        if on_disk or not (from_the_way or isinstance(error, OSError)):
            raise
        raise ArtifactError(f"{repo}: the hub is not reached ({short(str(error))}).") from None
