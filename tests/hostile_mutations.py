"""Structure-aware mutations of artifacts: a fault or a few, with the hashes made to fit.

`mutate` changes an artifact's folder in place as someone who knows the format would: headers,
shapes, types, sizes, numbers, JSON values, names in the manifest, links, pipes, giants and bombs.
Equal seeds give equal faults.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from artifact_examples import SOURCE, toy_artifact
from farzi.artifact import write_artifact

TENSORS, SETTINGS, MANIFEST = "farzi.safetensors", "farzi.json", "MANIFEST.sha256"
WORDS = ["<unk>", "<eos>", "the", "of", "N"]

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 127, 1 << 31, 1 << 63, 1 << 64, 10**30, -(1 << 62), 0.0,
    -0.0, 1.5, 1e308, 5e-324, float("nan"), float("inf"), "", "x", "\x00", "\x1b[2J\n", "\ud800",
    "../..",
    "/etc/passwd", "é" * 300, [], {}, [[]], [1, 2], {"a": {"b": []}}, [0] * 1000, "F16", "I8",
    "int8", "float16", "hard", "soft", "language", "recommend",
]  # fmt: skip


def write_bases(folder: Path) -> list[Path]:
    """Write the artifacts that the mutations start from: every version, task and way to store."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randn(3, 4, 2, generator=generator)
    lengths = torch.tensor([4, 1, 2])
    text: dict[str, Any] = {"source": {**SOURCE, "task": "language"}, "vocabulary": WORDS}
    artifacts = [
        toy_artifact(),
        toy_artifact(label_latent=labels, lengths=lengths, dtype="float16"),
        toy_artifact(label_latent=labels, dtype="int8", vocabulary=[1, 2, 30, -4, 1 << 60]),
        toy_artifact(label_latent=labels, dtype="int8", hard_token_seed=7).hardened(),
        toy_artifact(label_latent=labels, lengths=lengths).hardened(),
        toy_artifact(**text),
        toy_artifact(**text, label_latent=labels, dtype="int8"),
    ]
    bases = [write_artifact(each, folder / str(number)) for number, each in enumerate(artifacts)]
    old = Path(__file__).parent / "unit" / "artifact" / "version1"
    return [*bases, old / "recommend", old / "language"]


def mutate(folder: Path, seed: int, outside: Path) -> str:
    """Change the artifact in `folder` and return what was done, in words.

    Args:
        folder: an artifact's folder.
        seed: of every choice.
        outside: a file outside, where links lead.
    """
    rng = random.Random(seed)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice(KINDS)
        with contextlib.suppress(Exception):  # an earlier fault may have left nothing to change
            done.append(f"{kind.__name__}: {kind(folder, rng, outside)}")
    if rng.random() < 0.9:
        _fit_hashes(folder)
    return "; ".join(done)


def _fit_hashes(folder: Path) -> None:
    """Write the hashes of the files as they are now, where the manifest can still be read."""
    manifest = folder / MANIFEST
    with contextlib.suppress(OSError, ValueError):
        lines = []
        for line in _content(manifest).decode().splitlines():
            _, name = line.split("  ", 1)
            path = folder / name
            if _is_ordinary(path):
                line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"
            lines.append(line)
        manifest.write_text("\n".join(lines) + "\n")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if _is_ordinary(path))


def _is_ordinary(path: Path) -> bool:
    """Whether a mutation may read a path: a file, no link, no pipe, no giant."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24


def _content(path: Path) -> bytes:
    if not _is_ordinary(path):
        raise OSError(f"{path} is no ordinary file any more")
    return path.read_bytes()


# ------------------------------------------------------------------------------------ tensors


def _read_header(folder: Path) -> tuple[dict[str, Any], bytes]:
    content = _content(folder / TENSORS)
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _write_header(folder: Path, header: Any, data: bytes, *, size: int | None = None) -> None:
    text = header if isinstance(header, bytes) else _dump(header)
    length = len(text) if size is None else size
    (folder / TENSORS).write_bytes(struct.pack("<Q", length % (1 << 64)) + text + data)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def header(folder: Path, rng: random.Random, outside: Path) -> str:
    """Change one field of one tensor, or which tensors there are."""
    tensors, data = _read_header(folder)
    name = rng.choice(sorted(tensors))
    what = rng.choice(["dtype", "shape", "offsets", "drop", "rename", "add", "swap", "key", "meta"])
    entry = tensors[name]
    if what == "dtype":
        entry["dtype"] = rng.choice(["F32", "F16", "F64", "I8", "I32", "I64", "BF16", "BOOL", 1])
    elif what == "shape":
        shape = list(entry["shape"])
        place = rng.randrange(len(shape) + 1)
        if rng.random() < 0.5 and place < len(shape):
            shape[place] = rng.choice(NASTY)
        else:
            shape.insert(place, rng.choice([1, 0, 2, 1 << 40]))
        entry["shape"] = shape
    elif what == "offsets":
        offsets = list(entry["data_offsets"])
        offsets[rng.randrange(2)] = rng.choice([*NASTY, offsets[0] + 1, offsets[1] - 4])
        entry["data_offsets"] = offsets
    elif what == "drop":
        del tensors[name]
    elif what == "rename":
        others = ["latent", "tokens", "lengths", "decoder.scale", "learned.x", "learned../x", "x"]
        tensors[rng.choice(others)] = tensors.pop(name)
    elif what == "add":
        new = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        tensors[rng.choice(["lengths", "tokens", "learned.b", "latent.scale", "label_latent"])] = (
            new
        )
        data += bytes(4)
    elif what == "swap":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif what == "key":
        entry[rng.choice(["extra", "dtype", "shape"])] = rng.choice(NASTY)
    else:
        tensors["__metadata__"] = {"a": "b"}
    _write_header(folder, tensors, data)
    return f"{what} of {name}"


def header_size(folder: Path, rng: random.Random, outside: Path) -> str:
    """Say another size of the header than it has."""
    tensors, data = _read_header(folder)
    size = rng.choice([0, 1, 7, len(_dump(tensors)) + rng.choice([-1, 1, 8]), 1 << 16, 1 << 40, -1])
    _write_header(folder, tensors, data, size=size)
    return str(size)


def header_text(folder: Path, rng: random.Random, outside: Path) -> str:
    """Replace the header by no header."""
    _, data = _read_header(folder)
    text = rng.choice([b"", b"[]", b"{", b"[" * 60_000, b'{"a":' * 9_000, b"\xff\xfe", b"null",
                       b'{"latent":1,"latent":2}', b" " * (1 << 17)])  # fmt: skip
    _write_header(folder, text, data)
    return repr(text[:12])


def numbers(folder: Path, rng: random.Random, outside: Path) -> str:
    """Write another number somewhere into a tensor: NaN, infinity, zero, the largest."""
    tensors, data = _read_header(folder)
    name = rng.choice(sorted(tensors))
    begin, end = tensors[name]["data_offsets"]
    size = {"F32": 4, "F16": 2, "I8": 1, "I32": 4, "I64": 8}[tensors[name]["dtype"]]
    place = rng.randrange(begin, end, size)
    bits = rng.choice([0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), 0x7F800000, 0x7FC00000,
                       0x7C00, 0x7E00, 0xFF800000, rng.getrandbits(8 * size)])  # fmt: skip
    value = (bits % (1 << 8 * size)).to_bytes(size, "little")
    _write_header(folder, tensors, data[:place] + value + data[place + size :])
    return f"{name} at {place}: {value.hex()}"


def refit(folder: Path, rng: random.Random, outside: Path) -> str:
    """Give the artifact another shape throughout: settings, header and data agree."""
    settings = json.loads(_content(folder / SETTINGS))
    tensors, data = _read_header(folder)
    axis = rng.choice(["sequences", "length", "rank", "vocabulary"])
    old = settings["shape"][axis]
    new = rng.choice([1, old + 1, old - 1, old * 2, 0, 70_000])
    settings["shape"][axis] = new
    axes = {
        "latent": ("sequences", "length", "rank"), "tokens": ("sequences", "length"),
        "decoder": ("rank", "vocabulary"), "label_latent": ("sequences", "length", "rank"),
        "lengths": ("sequences",), "latent.scale": ("sequences", "length"),
        "label_latent.scale": ("sequences", "length"), "decoder.scale": ("rank",),
    }  # fmt: skip
    widths = {"F32": 4, "F16": 2, "I8": 1, "I32": 4, "I64": 8}
    content = b""
    for name, entry in sorted(tensors.items()):
        if name in axes:
            entry["shape"] = [settings["shape"][each] for each in axes[name]]
        count = widths[entry["dtype"]]
        for each in entry["shape"]:
            count *= each
        begin, end = entry["data_offsets"]
        chunk = (data[begin:end] or b"\x01") * (max(count, 1) // max(1, end - begin) + 1)
        entry["data_offsets"] = [len(content), len(content) + count]
        content += chunk[:count]
    (folder / SETTINGS).write_bytes(_dump(settings))
    _write_header(folder, tensors, content)
    return f"{axis} {old} -> {new}"


# --------------------------------------------------------------------------------------- JSON


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:5]):
            yield from places(item, (*path, index))


def json_value(folder: Path, rng: random.Random, outside: Path) -> str:
    """Change, drop, add or repeat a value of farzi.json or of a tokenizer's file."""
    names = [name for name in (SETTINGS, SETTINGS, "tokenizer.json") if (folder / name).is_file()]
    name = rng.choice(names)
    value = json.loads(_content(folder / name))
    path = rng.choice(list(places(value)))
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    what = rng.choice(["set", "set", "set", "drop", "add", "nest", "text"])
    if what == "drop":
        del owner[path[-1]]
    elif what == "add" and isinstance(owner, dict):
        owner[rng.choice(["extra", "host", "a\x1b[2Jb", "x" * 500])] = rng.choice(NASTY)
    elif what == "nest":
        deep: Any = 1
        for _ in range(rng.choice([5, 20, 900])):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        owner[path[-1]] = deep
    else:
        owner[path[-1]] = rng.choice(NASTY)
    content = _dump(value)
    if what == "text":
        place = rng.randrange(len(content))
        content = (
            content[:place]
            + rng.choice([b"", b'"', b"}", b",", b"\xff", b"9" * 5000])
            + (content[place + rng.choice([0, 1, 5]) :])
        )
    (folder / name).write_bytes(content)
    return f"{what} {name} {'.'.join(map(str, path))}"[:120]


# -------------------------------------------------------------------------------------- bytes


def some_bytes(folder: Path, rng: random.Random, outside: Path) -> str:
    """Flip, cut, repeat, insert or remove bytes of any file."""
    return change_bytes(rng.choice(_files(folder)), rng)


def change_bytes(path: Path, rng: random.Random) -> str:
    """Flip, cut, repeat, insert or remove bytes of a file."""
    content = bytearray(path.read_bytes())
    what = rng.choice(["flip", "flip", "cut", "double", "insert", "remove", "word", "empty"])
    place = rng.randrange(len(content))
    if what == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del content[place:]
    elif what == "double":
        content.extend(bytes(content))
    elif what == "insert":
        content[place:place] = rng.randbytes(rng.choice([1, 4, 100]))
    elif what == "remove":
        del content[place : place + rng.choice([1, 4, 100])]
    elif what == "word":
        content[place : place + 4] = struct.pack("<I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
    else:
        content.clear()
    path.write_bytes(bytes(content))
    return f"{what} {path.name} at {place}"


def exchange(folder: Path, rng: random.Random, outside: Path) -> str:
    """Give two files each other's content."""
    first, second = rng.sample(_files(folder), 2)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    return f"{first.name} and {second.name}"


# ---------------------------------------------------------------------------- names and places


def manifest(folder: Path, rng: random.Random, outside: Path) -> str:
    """Change a line of the manifest."""
    path = folder / MANIFEST
    lines = _content(path).decode().splitlines()
    place = rng.randrange(len(lines))
    digest, name = lines[place].split("  ", 1)
    names = [f"../{outside.name}", str(outside), "data/../farzi.json", "./farzi.json", "evil.py",
             "FARZI.JSON", "farzi.json\x00", "a\x1b[2Jb", "", "data", "tokenizer.json",
             "tokenizer_config.json", "items.parquet", "x" * 300]  # fmt: skip
    what = rng.choice(["name", "name", "drop", "double", "digest", "order", "ends", "long"])
    if what == "name":
        name = rng.choice(names)
        lines[place] = f"{digest}  {name}"
    elif what == "drop":
        del lines[place]
    elif what == "double":
        lines.append(lines[place])
    elif what == "digest":
        lines[place] = f"{rng.choice([digest.upper(), digest[:-1], '', 'g' * 64])}  {name}"
    elif what == "order":
        rng.shuffle(lines)
    elif what == "long":
        lines += [f"{digest}  {name}"] * 1000
    ends = rng.choice(["\r\n", "\x85", "\u2028", " \n", "\n\n"]) if what == "ends" else "\n"
    path.write_text(ends.join(lines) + "\n", newline="")
    return f"{what} {name}"[:120]


def place(folder: Path, rng: random.Random, outside: Path) -> str:
    """Put a link, a pipe, a folder, a giant or nothing where a file or folder was."""
    path = rng.choice([*_files(folder), folder / "data"])
    what = rng.choice(["link", "link inside", "pipe", "folder", "giant", "nothing", "hard"])
    if what == "giant":
        if path.is_file():
            os.truncate(path, rng.choice([1 << 23, 1 << 33, 1 << 40]))
        return f"{what} {path.name}"
    kept = folder.parent / f"{folder.name}.kept"
    if kept.exists():
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    path.rename(kept)
    if what == "link":
        path.symlink_to(rng.choice([outside, kept, Path("/dev/zero"), Path("/etc/passwd"), path]))
    elif what == "link inside":
        path.symlink_to(folder / rng.choice([SETTINGS, TENSORS, "data"]))
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "hard" and kept.is_file():
        os.link(outside, path)
    return f"{what} {path.name}"


KINDS: list[Callable[[Path, random.Random, Path], str]] = [
    header, header, header, header_size, header_text, numbers, numbers, refit, json_value,
    json_value, json_value, some_bytes, some_bytes, exchange, manifest, place,
]  # fmt: skip
