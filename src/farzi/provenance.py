"""What a run, an artifact or a model remembers of its source, and reading that source again.

An artifact and a model's weights carry how their source was read (columns, filters, vocabulary)
and which split of it they belong to; where the source lies stands in the run's folder alone, in
`settings.json`, and in `source.json` beside weights. So `compare RUN` needs neither the flags nor
the path of `distill`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farzi.artifact import locate_artifact, read_artifact
from farzi.artifact.checks import short
from farzi.data import SOURCES
from farzi.data.files import read_json, write_text
from farzi.data.identity import tokens_of
from farzi.data.preparation import arguments_of, prepare
from farzi.data.prepared import PreparedData
from farzi.data.sources import Origin, is_prepared
from farzi.errors import ArtifactError, DataError, SettingsError

__all__ = [
    "Remembered",
    "holds_artifact",
    "is_home",
    "is_run",
    "read_again",
    "remembered_by",
    "remembered_by_weights",
    "source_record",
    "split_folders",
    "write_origin",
]

RUN_RECORD = "settings.json"  # of a run: `origin` stands among its settings
MODEL_RECORD = "source.json"  # beside weights


@dataclass(frozen=True)
class Remembered:
    """What something made from a source says of that source.

    Attributes:
        by: what remembers it, as the caller named it.
        source: name, task, fingerprint, split and protocol (`source_record`).
        origin: where it was read, or None where that is not known.
    """

    by: str
    source: Mapping[str, Any]
    origin: Origin | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments with which `prepare` reads the same split in the same way."""
        record = self.source
        protocol = record.get("protocol") or {}
        read: dict[str, Any] = {}
        if "task" in record:
            read = arguments_of(record["task"], record.get("seen_items", "keep"), protocol)
        by_user = "leave-last-out" if record["split_kind"] == "leave-last-out" else "users"
        return {**read, "split": by_user, "split_seed": int(record["split_seed"])}


def source_record(data: PreparedData) -> dict[str, Any]:
    """What an artifact and a model's weights keep of their source: no path, no data."""
    return {
        "name": data.name,
        "task": data.task,
        "fingerprint": data.fingerprint,
        "split_kind": data.split_kind,
        "split_seed": data.split_seed,
        "train_users_hash": data.train_users_hash,
        "seen_items": data.seen_items,
        "protocol": data.protocol,
    }


# ------------------------------------------------------------------------------------ folders


def holds_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an artifact's folder or a run with a finished artifact."""
    folder = Path(path)
    return any((place / "farzi.json").is_file() for place in (folder, folder / "artifact"))


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a run's folder or one of several splits, finished or not; or an artifact.

    A folder of those names that `farzi prepare` wrote, or a file, is none.
    """
    return any(
        holds_artifact(folder) or (folder / RUN_RECORD).is_file() for folder in split_folders(path)
    )


def is_home(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder of ours to write to: of a run, or of several splits."""
    return any((folder / RUN_RECORD).is_file() for folder in split_folders(path))


def split_folders(path: str | os.PathLike[str]) -> list[Path]:
    """The runs in a folder that holds one for each split, or the folder itself."""
    return sorted(Path(path).glob("split-*")) or [Path(path)]


def write_origin(folder: Path, origin: Origin | None) -> None:
    """Write where a model's source was read to `folder/source.json`, beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"origin": None if origin is None else dataclasses.asdict(origin)}
    write_text(folder / MODEL_RECORD, json.dumps(values, indent=2, sort_keys=True) + "\n")


def _read_origin(file: Path) -> Origin | None:
    """Where the source lay, as the record of a run or of a model says."""
    if not file.is_file():
        return None
    try:
        origin = read_json(file).get("origin")
        return None if origin is None else Origin(**origin)
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(f"{file}: cannot be read; name the source with `on`.") from None


# --------------------------------------------------------------------------------- remembering


def remembered_by(path: str | os.PathLike[str]) -> Remembered:
    """What a run or an artifact remembers of its source.

    Raises:
        ArtifactError: there is no finished artifact.
    """
    folder = Path(path)
    if not holds_artifact(folder) and (folder / RUN_RECORD).is_file():
        raise ArtifactError(
            f"{folder}: the run has no artifact yet; "
            "`farzi distill SOURCE --out RUN --resume` finishes it."
        )
    artifact = locate_artifact(folder)
    home = artifact.parent if artifact.name == "artifact" else artifact
    return Remembered(str(path), read_artifact(artifact).source, _read_origin(home / RUN_RECORD))


def remembered_by_weights(path: Path, provenance: Mapping[str, Any]) -> Remembered:
    """What a model's weights remember of its source.

    Args:
        path: the weights file; `source.json` beside it says where the source lay.
        provenance: as `load_weights` returns it.

    Raises:
        ArtifactError: the weights do not say which split they were trained on.
    """
    record = {**provenance, "name": provenance.get("source", provenance.get("name"))}
    if "split_kind" not in record or "split_seed" not in record:
        raise ArtifactError(f"{path}: does not say on which split it was trained.")
    return Remembered(str(path), record, _read_origin(path.parent / MODEL_RECORD))


def read_again(
    remembered: Remembered,
    on: str | os.PathLike[str] | None = None,
    **asked: Any,
) -> PreparedData:
    """Prepare the source of a run, an artifact or a model as it was read before.

    Args:
        remembered: what it says of its source.
        on: where the source lies now; None: where it lay.
        asked: arguments of `prepare` that go before the remembered ones.

    Raises:
        SettingsError: nothing says where the source or its tokenizer lies, or it is no longer
            there.
        DataError: as from `prepare`.
    """
    arguments = {**remembered.arguments, **asked}
    source = _place(remembered, arguments) if on is None else on
    protocol = remembered.source.get("protocol") or {}
    if protocol.get("tokens") != "tokenizer" or is_prepared(source):
        return prepare(source, **arguments)
    folder = arguments.setdefault("tokenizer", _tokenizer(remembered, asked.get("tokenizer")))
    data = prepare(source, **arguments)
    if data.identity.tokens != tokens_of(protocol):
        raise DataError(
            f"{folder}: not the tokenizer that {remembered.by} was made with "
            f"(it is {short(data.identity.tokens)}, and that was {short(tokens_of(protocol))})."
        )
    return data


def _tokenizer(
    remembered: Remembered, asked: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
    """The folder of the tokenizer that cut the text: as asked, or where it was then."""
    if asked is not None:
        return asked
    name = short(str(remembered.source["protocol"].get("tokenizer")))
    folder = None if remembered.origin is None else remembered.origin.tokenizer
    if folder is None:
        raise SettingsError(
            f"{remembered.by}: its text was cut by the tokenizer {name}, and nothing says where "
            "that lies; name its folder with `tokenizer`."
        )
    if not Path(folder).is_dir():
        raise SettingsError(
            f"{remembered.by}: its tokenizer {folder} is no longer there; name where it is now "
            "with `tokenizer` (the artifact's own folder has it too)."
        )
    return folder


def _place(remembered: Remembered, arguments: dict[str, Any]) -> str:
    """Where the source lies: as remembered, where it is still there."""
    origin, name = remembered.origin, str(remembered.source.get("name"))
    if origin is None:
        if name in SOURCES:
            return name
        raise SettingsError(
            f"{remembered.by}: was made from {short(name)}, and does not say where that lies; "
            "name it with `on`."
        )
    if origin.source in SOURCES:
        root = origin.data_root
        if root is not None and Path(root).is_dir():
            arguments.setdefault("data_root", root)
    elif not Path(origin.source).exists():
        raise SettingsError(
            f"{remembered.by}: its source {origin.source} is no longer there; "
            "name where it is now with `on`."
        )
    return origin.source
