"""Reading an artifact, trusted or not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import safetensors.torch
import torch

from farzi.artifact.checks import check_json, check_keys, check_type, short
from farzi.artifact.contents import (
    Artifact,
    check_seed,
    check_source,
    check_temperature,
    check_tensors,
    check_tokenizer,
    check_vocabulary,
    is_learned_name,
)
from farzi.artifact.layout import (
    CARD,
    HARD_TOKENS,
    ITEMS,
    LEARNED_PREFIX,
    LISTED,
    MANIFEST,
    MAX_BYTES,
    MAX_HEADER_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SETTINGS_BYTES,
    READABLE_VERSIONS,
    SCALE_SUFFIX,
    SETTINGS,
    SHAPE_NAMES,
    TENSORS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENS,
    Json,
)
from farzi.artifact.parquet import parse_column
from farzi.artifact.storage import FACTORS, check_dtype, pack, unpack
from farzi.data.content import parse_json
from farzi.data.tokenizer import Tokenizer, special_tokens
from farzi.errors import ArtifactError

__all__ = ["locate_artifact", "read_artifact"]

_SETTINGS_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "format_version": int,
    "shape": dict,
    "temperature": float,
    "recipe": dict,
    "source": dict,
    "scores": dict,
    "hard_token_seed": (int, type(None)),
}
_NEW_FIELDS: dict[str, type | tuple[type, ...]] = {"tokens": str, "dtype": str}  # in version 2
_STORED = {"float32": "F32", "float16": "F16", "int8": "I8"}


def read_artifact(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read an artifact, trusted or not, after every check.

    Args:
        path: the artifact's folder, or a run folder that holds one.
        max_bytes: the largest file that is read.

    Raises:
        ArtifactError: one line that names the file and the field.

    Cost:
        Every file is read and hashed once; the tensors are in memory twice for a moment.
    """
    root = locate_artifact(path)
    hashes = _read_manifest(root)
    contents = {}
    for name, expected in hashes.items():
        limit = min(max_bytes, MAX_SETTINGS_BYTES) if name == SETTINGS else max_bytes
        contents[name] = _read_bytes(root, name, limit)
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ArtifactError(f"{root / name}: its SHA-256 is not the one in {MANIFEST}.")
    settings = _parse_settings(root / SETTINGS, contents[SETTINGS])
    if settings["format_version"] == 1 and TOKENIZER_CONFIG in contents:
        raise ArtifactError(f"{root / MANIFEST}: {TOKENIZER_CONFIG} is not a file of version 1.")
    tensors = _parse_tensors(root / TENSORS, contents[TENSORS], settings)
    task = settings["source"]["task"]
    name = ITEMS if task == "recommend" else TOKENIZER
    if name not in contents:
        raise ArtifactError(f"{root / MANIFEST}: {name} is not listed, and the task is {task}.")
    tokenizer = None
    if task == "language" and settings["source"]["protocol"].get("tokens") == "tokenizer":
        tokenizer = _parse_own_tokenizer(root, contents, settings)
        vocabulary: list[int] | list[str] = list(tokenizer.tokens)
    else:
        parse_vocabulary = _parse_items if name == ITEMS else _parse_tokenizer
        vocabulary = parse_vocabulary(root / name, contents[name], settings["shape"]["vocabulary"])
    with _naming(root / TENSORS):
        return Artifact(
            latent=tensors.pop(TOKENS if settings["tokens"] == "hard" else "latent"),
            decoder=tensors.pop("decoder"),
            label_latent=tensors.pop("label_latent", None),
            lengths=tensors.pop("lengths", None),
            temperature=settings["temperature"],
            learned={name.removeprefix(LEARNED_PREFIX): tensor for name, tensor in tensors.items()},
            recipe=settings["recipe"],
            source=settings["source"],
            scores=settings["scores"],
            vocabulary=vocabulary,
            hard_token_seed=settings["hard_token_seed"],
            dtype=settings["dtype"],
            tokenizer=tokenizer,
        )


def locate_artifact(path: str | os.PathLike[str]) -> Path:
    """Return the artifact's folder, given it or the run folder whose `artifact` it is.

    Raises:
        ArtifactError: neither is one.
    """
    root = Path(path)
    for candidate in (root, root / "artifact"):
        if (candidate / MANIFEST).exists():
            return candidate
    if not root.is_dir():
        raise ArtifactError(f"{root}: there is no such folder.")
    raise ArtifactError(f"{root}: not an artifact: {MANIFEST} is missing.")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's path before what an `ArtifactError` says."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _read_manifest(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the artifact, by name."""
    path = root / MANIFEST
    hashes: dict[str, str] = {}
    text = _decode(path, _read_bytes(root, MANIFEST, MAX_MANIFEST_BYTES))
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if match is None:
            raise ArtifactError(f"{path}: line {number} is not a SHA-256 and a file name.")
        name = match[2]
        if name not in LISTED:
            raise ArtifactError(f"{path}: {short(name)} is not a file of an artifact.")
        if name in hashes:
            raise ArtifactError(f"{path}: {name} is listed twice.")
        hashes[name] = match[1]
    for name in (TENSORS, SETTINGS, HARD_TOKENS, CARD):
        if name not in hashes:
            raise ArtifactError(f"{path}: {name} is not listed.")
    return hashes


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not UTF-8 at byte {error.start}.") from error


def _read_bytes(root: Path, name: str, max_bytes: int) -> bytes:
    """Return the content of a regular file below `root`, reached without a link."""
    path = root / name
    for part in PurePosixPath(name).parents:
        if (root / part).is_symlink() and part != PurePosixPath("."):
            raise ArtifactError(f"{root / part}: a link, where a folder is expected.")
    try:
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        what = "a link, where a file is expected" if path.is_symlink() else error.strerror
        raise ArtifactError(f"{path}: {what}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path}: not a regular file.")
        if status.st_size > max_bytes:
            raise ArtifactError(f"{path}: {status.st_size:,} bytes, more than {max_bytes:,}.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def _parse_json(path: Path, content: bytes) -> Json:
    _decode(path, content)
    try:
        return parse_json(content)
    except ValueError as error:
        raise ArtifactError(f"{path}: not readable as JSON: {short(str(error))}.") from error


def _parse_settings(path: Path, content: bytes) -> dict[str, Json]:
    settings: dict[str, Json] = _parse_json(path, content)
    with _naming(path):
        check_type("the file", settings, dict)
        if settings.get("format") != "farzi":
            raise ArtifactError('`format` must be "farzi".')
        version = settings.get("format_version")
        if version not in READABLE_VERSIONS or isinstance(version, bool):
            raise ArtifactError(
                f"`format_version` is {short(repr(version))}; this version of farzi reads "
                f"{' and '.join(map(str, READABLE_VERSIONS))}."
            )
        fields = _SETTINGS_FIELDS if version == 1 else _SETTINGS_FIELDS | _NEW_FIELDS
        check_keys("the file", settings, fields)
        if version == 1:
            settings |= {"tokens": "soft", "dtype": "float32"}
        if settings["tokens"] not in ("soft", "hard"):
            raise ArtifactError(
                f"`tokens` must be soft or hard, got {short(repr(settings['tokens']))}."
            )
        check_dtype(settings["dtype"])
        check_keys("shape", settings["shape"], dict.fromkeys(SHAPE_NAMES, int))
        for name, size in settings["shape"].items():
            if size < 1:
                raise ArtifactError(f"`shape.{name}` must be an int >= 1, got {size}.")
        check_temperature(settings["temperature"])
        check_json("recipe", settings["recipe"])
        check_source(settings["source"])
        check_json("scores", settings["scores"])
        check_seed(settings["hard_token_seed"])
    return settings


def _parse_tensors(
    path: Path, content: bytes, settings: dict[str, Json]
) -> dict[str, torch.Tensor]:
    """Check the header against the stated shape, then let safetensors check the layout."""
    if len(content) < 8:
        raise ArtifactError(f"{path}: {len(content)} bytes are no safetensors file.")
    (num_header_bytes,) = struct.unpack("<Q", content[:8])
    if num_header_bytes > min(MAX_HEADER_BYTES, len(content) - 8):
        raise ArtifactError(f"{path}: its header is said to be {num_header_bytes:,} bytes.")
    header = _parse_json(path, content[8 : 8 + num_header_bytes])
    with _naming(path):
        _check_header(header, settings)
        try:
            stored = safetensors.torch.load(content)
        except Exception as error:  # safetensors raises its own, TypeError and OverflowError
            raise ArtifactError(f"not a safetensors file: {short(str(error))}.") from error
        for name, scale in stored.items():
            if name.endswith(SCALE_SUFFIX) and not bool(
                (torch.isfinite(scale) & (scale > 0)).all()
            ):
                raise ArtifactError(f"`{name}` must be finite and above 0.")
        tensors = unpack(stored, settings["dtype"])
        check_tensors(tensors)
        for name, again in pack(tensors, settings["dtype"]).items():
            if not torch.equal(again, stored[name]):
                raise ArtifactError(f"`{name}` is not rounded as the format has it.")
    return tensors


def _check_header(header: Json, settings: dict[str, Json]) -> None:
    """Check which tensors there are, their types, and the shapes of those whose shape is known."""
    sequences, length, rank, vocabulary = (settings["shape"][name] for name in SHAPE_NAMES)
    kind = _STORED[settings["dtype"]]
    place = [sequences, length]
    expected: dict[str, tuple[str, list[int]]] = {
        "decoder": (kind, [rank, vocabulary]),
        "label_latent": (kind, [*place, rank]),
    }
    required = {"decoder"}
    if settings["tokens"] == "hard":
        expected[TOKENS] = ("I32", place)
        required |= {TOKENS, "label_latent"}
    else:
        expected["latent"] = (kind, [*place, rank])
        required |= {"latent"}
    check_type("the header", header, dict)
    if kind == "I8":
        for name in [name for name in FACTORS if name in expected]:
            expected[name + SCALE_SUFFIX] = ("F32", expected[name][1][:-1])
            if name in required or name in header:
                required |= {name + SCALE_SUFFIX}
    expected["lengths"] = ("I64", [sequences])
    for name in sorted(required):
        if name not in header:
            raise ArtifactError(f"`{name}` is missing.")
    for name, entry in header.items():
        learned = name.removeprefix(LEARNED_PREFIX)
        if name not in expected and not (learned != name and is_learned_name(learned)):
            raise ArtifactError(f"`{short(name)}` is not a tensor of an artifact.")
        check_keys(name, entry, {"dtype": str, "shape": list, "data_offsets": list})
        dtype, shape = expected.get(name, ("F32", None))
        if entry["dtype"] != dtype:
            raise ArtifactError(f"`{name}` must be {dtype}, got {short(entry['dtype'])}.")
        if shape is not None and entry["shape"] != shape:
            raise ArtifactError(
                f"`{name}` must be of shape {shape}, got {short(str(entry['shape']))}."
            )
    for name in header:
        if name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) not in header:
            raise ArtifactError(f"`{name}` is the scale of a tensor that is missing.")


def _parse_items(path: Path, content: bytes, num_items: int) -> list[int] | list[str]:
    try:
        items = parse_column(content, "item_id", num_items)
    except ValueError as error:
        reason = short(str(error))
        raise ArtifactError(f"{path}: not a list of {num_items:,} items: {reason}.") from error
    with _naming(path):
        check_vocabulary(items, num_items)
    return items


def _parse_tokenizer(path: Path, content: bytes, num_words: int) -> list[str]:
    tokenizer = _parse_json(path, content)
    with _naming(path):
        check_type("the file", tokenizer, dict)
        model = tokenizer.get("model")
        check_type("model", model, dict)
        if model.get("type") != "WordLevel":
            raise ArtifactError('`model.type` must be "WordLevel".')
        vocabulary = model.get("vocab")
        check_type("model.vocab", vocabulary, dict)
        if not all(type(token) is int for token in vocabulary.values()):
            raise ArtifactError("`model.vocab` must map words to ints.")
        if sorted(vocabulary.values()) != list(range(num_words)):
            raise ArtifactError(f"`model.vocab` must name each token below {num_words:,} once.")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _parse_own_tokenizer(
    root: Path, contents: dict[str, bytes], settings: dict[str, Json]
) -> Tokenizer:
    """The tokenizer of the user's that a text was cut by; no library looks at it here."""
    path = root / TOKENIZER
    special = {}
    if TOKENIZER_CONFIG in contents:
        try:
            special = special_tokens(
                _parse_json(root / TOKENIZER_CONFIG, contents[TOKENIZER_CONFIG])
            )
        except ValueError as error:
            raise ArtifactError(f"{root / TOKENIZER_CONFIG}: {error}.") from error
    _parse_json(path, contents[TOKENIZER])
    with _naming(path):
        try:
            tokenizer = Tokenizer(
                str(settings["source"]["protocol"].get("tokenizer")), contents[TOKENIZER], special
            )
            num_tokens = len(tokenizer.tokens)
        except ValueError as error:
            raise ArtifactError(f"{short(str(error))}.") from error
        if num_tokens != settings["shape"]["vocabulary"]:
            raise ArtifactError(
                f"it has {num_tokens:,} tokens for {settings['shape']['vocabulary']:,}."
            )
        check_tokenizer(settings["source"], tokenizer, tokenizer.tokens)
    return tokenizer
